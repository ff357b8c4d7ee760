"""One picture of a test case: image, truth and prediction side by side for three slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind readers
MARGIN = 12  # voxels around what is labelled
BARS_MM = (1, 2, 5, 10, 20, 50, 100)  # lengths of a scale bar
ON_DARK: dict[str, Any] = {
    "color": "white",
    "fontsize": 9,
    "bbox": {"facecolor": "black", "edgecolor": "none", "pad": 1, "alpha": 0.5},
}


class Case(NamedTuple):
    """The volumes of a case, (x, y, z) towards right, front and top, and their affine in mm."""

    image: NDArray[np.float64]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    affine: NDArray[np.float64]


def draw(image: Path, labels: Path, predictions: Path, names: list[str], out: Path) -> Path:
    """Draw the case of `image` (CASE_0000.nii.gz) and return the PNG's path; `names` are those of the labels from 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    name = image.name.removesuffix("_0000.nii.gz")
    case = _read(image, labels / f"{name}.nii.gz", predictions / f"{name}.nii.gz")
    used = np.flatnonzero((case.truth > 0).any(axis=(0, 1)))
    chosen = used[[len(used) // 6, len(used) // 2, len(used) - 1 - len(used) // 6]]
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.6), facecolor="white", layout="compressed")
    for row, index in zip(axes, chosen, strict=True):
        _draw_row(row, case, int(index), len(names))
    for axis, title in zip(axes[0], ("image", "truth", "prediction"), strict=True):
        axis.set_title(title)
    _scale(axes[-1][0], case)
    figure.suptitle(f"{name}, not seen in training: Dice {_dice(case, names)}")
    patches = [Patch(color=colour, label=label) for colour, label in zip(COLOURS, names, strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return out


def _read(*paths: Path) -> Case:
    import nibabel as nib
    import numpy as np

    images = [nib.as_closest_canonical(nib.load(path)) for path in paths]
    image, truth, predicted = (np.asarray(item.dataobj, dtype=float) for item in images)
    return Case(image, truth, predicted, images[0].affine)


def _draw_row(row: Any, case: Case, index: int, labels: int) -> None:
    """Draw one slice: the image, and under each of the two label maps."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    box = (*_box(case.truth), index)
    low, high = np.percentile(case.image, [1, 99.5])
    across, up, _ = _spacing(case)
    for axis, mask in zip(row, (None, case.truth, case.predicted), strict=True):
        how: dict[str, Any] = {"origin": "lower", "aspect": up / across, "interpolation": "nearest"}
        axis.imshow(case.image[box].T, cmap="gray", vmin=low, vmax=high, **how)
        if mask is not None:
            shown = np.ma.masked_equal(mask[box].T, 0)
            axis.imshow(shown, cmap=ListedColormap(COLOURS[:labels]), alpha=0.6, vmin=1, vmax=max(2, labels), **how)
        axis.set_xticks([])
        axis.set_yticks([])
    middle = [(edge.start + edge.stop - 1) / 2 for edge in box[:2]]
    height = (case.affine @ [*middle, index, 1])[2]
    row[0].set_ylabel(f"z = {height:.0f} mm")
    for side, letter in ((0.04, "L"), (0.96, "R")):
        row[0].text(side, 0.5, letter, transform=row[0].transAxes, ha="center", va="center", **ON_DARK)


def _scale(axis: Axes, case: Case) -> None:
    """Draw a bar of some millimetres, at most a third of the panel."""
    across = float(_spacing(case)[0])
    low, high = axis.get_xlim()
    bottom, top = axis.get_ylim()
    length = max((bar for bar in BARS_MM if bar <= (high - low) * across / 3), default=BARS_MM[0])
    x, y = low + 0.05 * (high - low), bottom + 0.04 * (top - bottom)
    axis.plot([x, x + length / across], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    axis.text(x, y + 0.02 * (top - bottom), f"{length} mm", va="bottom", **ON_DARK)


def _dice(case: Case, names: list[str]) -> str:
    """Return the overlap of each label; of one that is in neither map there is none."""
    said = []
    for value, name in enumerate(names, start=1):
        truth, found = case.truth == value, case.predicted == value
        both = int(truth.sum() + found.sum())
        said.append(f"{name} {2 * (truth & found).sum() / both:.2f}" if both else f"{name} not defined")
    return ", ".join(said)


def _spacing(case: Case) -> NDArray[np.float64]:
    """Return the edges of a voxel in mm."""
    import numpy as np

    lengths: NDArray[np.float64] = np.sqrt((case.affine[:3, :3] ** 2).sum(axis=0))
    return lengths


def _box(truth: NDArray[np.float64]) -> tuple[slice, slice]:
    """Return the in-plane box around the labels with a margin, so that a small structure fills the panel."""
    import numpy as np

    where = np.argwhere((truth > 0).any(axis=2))
    low = np.maximum(where.min(axis=0) - MARGIN, 0)
    high = np.minimum(where.max(axis=0) + MARGIN + 1, truth.shape[:2])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
