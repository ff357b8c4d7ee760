"""One picture of a test case: image, truth and prediction side by side for three slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind readers


def draw(image: Path, labels: Path, predictions: Path, names: list[str], out: Path) -> Path:
    """Draw the case of `image` (CASE_0000.nii.gz) and return the PNG's path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import nibabel as nib
    import numpy as np
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    case = image.name.removesuffix("_0000.nii.gz")
    mask_name = f"{case}.nii.gz"

    def load(path: Path) -> NDArray[np.float64]:
        return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj, dtype=float)

    volume, truth, predicted = load(image), load(labels / mask_name), load(predictions / mask_name)
    area = (truth > 0).sum(axis=(0, 1))
    used = np.flatnonzero(area)
    chosen = used[[len(used) // 6, len(used) // 2, len(used) - 1 - len(used) // 6]]
    box = _box(truth)
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.6), facecolor="white", layout="compressed")
    colours = ListedColormap(COLOURS[: len(names)])
    low, high = np.percentile(volume, [1, 99.5])
    for number, (row, index) in enumerate(zip(axes, chosen, strict=True)):
        panels = (("image", None), ("truth", truth), ("prediction", predicted))
        for axis, (title, mask) in zip(row, panels, strict=True):
            axis.imshow(volume[(*box, index)].T, cmap="gray", origin="lower", vmin=low, vmax=high)
            if mask is not None:
                shown = np.ma.masked_equal(mask[(*box, index)].T, 0)
                axis.imshow(
                    shown,
                    cmap=colours,
                    origin="lower",
                    alpha=0.6,
                    vmin=1,
                    vmax=max(2, len(names)),
                    interpolation="nearest",
                )
            axis.set_xticks([])
            axis.set_yticks([])
            if title == "image":
                axis.set_ylabel(f"slice {index}")
            if number == 0:
                axis.set_title(title)
    figure.suptitle(case)
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, names, strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return out


def _box(truth: NDArray[np.float64]) -> tuple[slice, slice]:
    """Return the in-plane box around the labels with a margin, so that a small structure fills the panel."""
    import numpy as np

    where = np.argwhere((truth > 0).any(axis=2))
    low = np.maximum(where.min(axis=0) - 12, 0)
    high = where.max(axis=0) + 13
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
