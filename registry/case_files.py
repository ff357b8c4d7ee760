"""One case of an import: its channels and masks are read, judged, turned and written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry import orientation
from registry.collection import ENDING, Source
from registry.errors import IntegrityError
from registry.volumes import (
    Volume,
    distinct,
    grid_difference,
    is_apart,
    not_finite,
    read_series,
    read_volume,
    write_volume,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

CONTOURS = ".roi"  # drawn in Jim
CORDS = "cords"  # folder beside the images
SEEMLY = 0.5  # share of lesions in the cord, below which something is wrong
ROUNDING = 1e-3  # how far a scaled file's numbers may be from the label values that they stand for


def write_case(source: Source, folder: Path, code: str, threshold: float, values: set[int], channels: int) -> list[str]:
    """Write a case's images and its label map, all in orientation `code`; return what a person should look at.

    A case without masks gets no label map. A mask counts where it is above `threshold`; a label map may hold `values`
    only. Raises `IntegrityError` with a line for every file of the case that cannot be used.
    """
    part = "Ts" if source.test else "Tr"
    images, problems = _read_images(source, channels)
    if problems:
        raise IntegrityError("\n".join(problems))
    first = images[0]
    for path, image in zip(source.images * (channels if source.is_series else 1), images, strict=True):
        problems += _problems(path, image, first, source.images[0])
    label, label_problems = _label(source, first, threshold, values)
    problems += label_problems
    if problems:
        raise IntegrityError("\n".join(dict.fromkeys(problems)))
    for channel, image in enumerate(images):
        turned = orientation.reorient(image.array, image.affine, code)
        write_volume(folder / f"images{part}" / f"{source.case}_{channel:04d}{ENDING}", *turned)
    if source.masks:
        turned = orientation.reorient(label, first.affine, code)
        write_volume(folder / f"labels{part}" / f"{source.case}{ENDING}", *turned)
    if source.cord:  # in millimetres of the world, which turning changes nothing in
        kind = next(ending for ending in (ENDING, ".nii", source.cord.suffix) if source.cord.name.endswith(ending))
        shutil.copyfile(source.cord, folder / CORDS / f"{source.case}{kind}")
    return [*_doubts(source.images[0], first), *_astray(source, first, threshold)]


def _read_images(source: Source, channels: int) -> tuple[list[Volume], list[str]]:
    """Return a volume a channel, and a line for every file that cannot be read."""
    images: list[Volume] = []
    problems = []
    for path in source.images:
        try:
            images += read_series(path, channels) if source.is_series else [read_volume(path)]
        except IntegrityError as error:
            problems.append(error.message)
    return images, problems


def _doubts(path: Path, image: Volume) -> list[str]:
    taken = f"taken for {orientation.describe(orientation.of_affine(image.affine))}"
    if not image.located:
        return [f"{path}: its header says no orientation; {taken}"]
    if is_apart(image.forms_off_mm, image.affine):
        return [f"{path}: its sform and qform are {image.forms_off_mm:.3g} mm apart; the sform counts, {taken}"]
    return []


def _problems(path: Path, volume: Volume, first: Volume, first_path: Path) -> list[str]:
    """Return what is wrong with an image or a mask beside the first image of its case."""
    problems = []
    if bad := not_finite(volume.array):
        problems.append(f"{path}: {bad} voxels are NaN or infinite")
    if difference := grid_difference(volume.array.shape, volume.affine, first.array.shape, first.affine):
        problems.append(f"{path}: not on the grid of {first_path.name}: {difference}")
    return problems


def _label(source: Source, image: Volume, threshold: float, values: set[int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the label map of the masks, later ones over earlier ones, and what is wrong with them."""
    import numpy as np

    label = np.zeros(image.array.shape, dtype=np.uint8)
    problems: list[str] = []
    for number, (path, value) in enumerate(source.masks):
        try:
            mask = _read_mask(source, number, image)
        except IntegrityError as error:
            problems.append(error.message)
            continue
        wrong = _problems(path, mask, image, source.images[0])
        if not wrong and value is None:
            unknown = [found for found in distinct(mask.array) if not _is_one_of(found, values)]
            wrong = [f"{path}: label values that dataset.json does not know: {shown(unknown)}"] if unknown else []
        problems += wrong
        if wrong:
            continue
        if value is None:
            label = np.rint(mask.array).astype(np.uint8)
        else:
            label[mask.array > threshold] = value
    return label, problems


def _read_mask(source: Source, number: int, image: Volume) -> Volume:
    """Read a mask of a case: a volume, one of its labels as 1, or contours drawn in Jim as the image's voxels."""
    path, counting = source.masks[number][0], source.counting[number] if source.counting else None
    if path.suffix == CONTOURS:
        return replace(image, array=_filled(path, image, source.flips))
    mask = read_volume(path)
    if counting is None:
        return mask
    import numpy as np

    return replace(mask, array=np.isin(mask.array, counting).astype(np.uint8))


def _filled(path: Path, image: Volume, flips: tuple[bool, bool]) -> NDArray[np.uint8]:
    import numpy as np

    from trainers.core.errors import TrainingError
    from trainers.data.grid import Grid
    from trainers.lesion.jim import fill, read_contours

    x, y, z = image.array.shape
    try:
        mask = fill(read_contours(path), Grid((x, y, z), image.affine), flips=flips, name=str(path))
    except TrainingError as error:
        raise IntegrityError(error.message, hint=error.hint) from error
    return mask.astype(np.uint8)


def _astray(source: Source, image: Volume, threshold: float) -> list[str]:
    """Say where contours lie beside the cord, which the first mask of the case shows: they may be mirrored."""
    said = []
    for number, (path, _) in enumerate(source.masks[1:], start=1):
        if path.suffix != CONTOURS:
            continue
        drawn, cord = (_read_mask(source, mask, image).array > threshold for mask in (number, 0))
        if drawn.any() and (share := (drawn & cord).sum() / drawn.sum()) < SEEMLY:
            said.append(f"{path}: {share:.0%} of its area lie in the cord: is the image mirrored? see --jim-flip")
    return said


def _is_one_of(found: float, values: set[int]) -> bool:
    """Whether a voxel is one of the values, as closely as a scaled file can hold it."""
    return round(found) in values and abs(found - round(found)) < ROUNDING


def shown(values: list[Any]) -> str:
    """Return the first few numbers of a list as text."""
    most = 5
    return ", ".join(f"{value:g}" for value in values[:most]) + (" …" if len(values) > most else "")
