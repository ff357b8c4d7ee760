"""The image that a model is tried on: a file that somebody names, or a piece of the public MNI152 template.

No image of the training is ever used: what goes with a release can be looked up by anybody. The piece of the template
lies around the brainstem and the cerebellum. It is cut so that it is about one patch of the network, and left in the
template's own orientation, so that the way to the model's orientation is tried, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from registry import orientation
from registry.classifier import PLANS as CLASSIFIER_PLANS
from registry.demo_data import template_files
from registry.errors import MregError
from registry.files import read_json
from registry.reference import image_of
from registry.volumes import Volume, read_volume

if TYPE_CHECKING:
    from pathlib import Path

    from registry.manifest import ReferenceImage

BUNDLED, FILE = "mni152", "file"
CENTRE_MM = (0, -42, -40)  # of the template, between brainstem and cerebellum; its lowest slice is at -72
SMALLEST_MM, LARGEST_MM = 16, 64
SLICES = 8  # for a network in two dimensions
PLANE_AXES = 2
DEFAULT_ORIENTATION = "LPI"  # what SCT takes for a model that does not say


class TrialImage(NamedTuple):
    """An image on disk, and what the manifest says of it."""

    path: Path
    about: ReferenceImage


def trial_image(image: Path | None, folder: Path, model: Path) -> TrialImage:
    """Return the image that the user named, or write the bundled one into `folder`; `model` is the trainer folder.

    Raises `MregError` where there is no bundled image, `IntegrityError` for a file that is no volume.
    """
    if image is not None:
        return TrialImage(image, image_of(read_volume(image), FILE))
    import nibabel as nib

    volume = bundled(model)
    path = folder / f"{BUNDLED}.nii.gz"
    nib.save(nib.Nifti1Image(volume.array, volume.affine), path)
    return TrialImage(path, image_of(read_volume(path), BUNDLED))


def write_region(image: Path, folder: Path) -> Path:
    """Write a region of interest for an image: the middle half of it along each axis; return the file.

    Where the region lies says nothing of what a model is worth; the same region every time is all that is asked of it.
    """
    import nibabel as nib
    import numpy as np

    volume = read_volume(image)
    edges: tuple[int, ...] = volume.array.shape
    mask = np.zeros(edges, np.uint8)
    mask[tuple(slice(edge // 4, max(edge - edge // 4, edge // 4 + 1)) for edge in edges)] = 1
    path = folder / "region.nii.gz"
    nib.save(nib.Nifti1Image(mask, volume.affine), path)
    return path


def bundled(model: Path) -> Volume:
    """Return the piece of the template that suits a model, at 1 mm."""
    import nibabel as nib
    import numpy as np

    try:
        file = template_files()["t1"]
    except MregError as error:
        raise MregError(error.message, hint=f"name an image yourself, or {error.hint}") from error
    image: Any = nib.load(file)
    middle = np.rint(np.linalg.inv(image.affine) @ [*CENTRE_MM, 1])[:3].astype(int)
    size = np.array(box_mm(model))
    start = np.clip(middle - size // 2, 0, np.array(image.shape) - size)
    affine = image.affine.copy()
    affine[:3, 3] = image.affine[:3] @ [*start, 1]
    box = tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))
    return Volume(np.asarray(image.dataobj[box]), affine)


def box_mm(model: Path) -> tuple[int, int, int]:
    """Return the edges of the piece along right-left, posterior-anterior and inferior-superior.

    A cube as long as the shortest edge of the patch; for a network in two dimensions a few slices of it. Plans that say
    nothing of the kind make it the smallest: whether they are whole is not judged here.
    """
    plans = read_json(model / "plans.json")
    patch = _configuration(plans, model.name.rpartition("__")[2])
    edges = [size * space for size, space in zip(*patch, strict=False)] or [SMALLEST_MM]
    edge = round(min(max(min(edges), SMALLEST_MM), LARGEST_MM))
    box = [edge] * 3
    if len(edges) == PLANE_AXES:
        box[_slice_axis(plans, read_json(model / "dataset.json"))] = SLICES
    return box[0], box[1], box[2]


def _configuration(plans: Any, name: Any) -> tuple[list[float], list[float]]:
    """Return patch in voxels and spacing in mm, with what the configuration inherits; nothing where they are broken."""
    found: dict[str, list[float]] = {}
    seen = set()
    if isinstance(plans, dict) and plans.get("plans_name") == CLASSIFIER_PLANS:  # one size for all of its images
        size, space = ([*plans[key]] if _numbers(plans.get(key)) else [] for key in ("image_size", "spacing"))
        return size, space
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    while isinstance(configurations, dict) and isinstance(name, str) and name not in seen:
        seen.add(name)
        here = configurations.get(name)
        for key in ("patch_size", "spacing"):
            if isinstance(here, dict) and _numbers(here.get(key)):
                found.setdefault(key, here[key])
        name = here.get("inherits_from") if isinstance(here, dict) else None
    return found.get("patch_size", []), found.get("spacing", [])


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) and v > 0 for v in value)


def _slice_axis(plans: dict[str, Any], dataset_json: Any) -> int:
    """Return which axis of the template the network does not look along."""
    said = dataset_json.get("image_orientation") if isinstance(dataset_json, dict) else None
    code = str(said) if orientation.is_valid(said) else DEFAULT_ORIENTATION
    order = plans.get("transpose_forward")
    first = order[0] if isinstance(order, list) and order and order[0] in (0, 1, 2) else 0
    letter = code[2 - first]  # nnU-Net's axes are those of the file backwards
    return next(axis for axis, pair in enumerate(orientation.PAIRS) if letter in pair)
