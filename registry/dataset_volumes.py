"""What one pass over a dataset's image or label map tells; the voxels themselves are not kept."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import orientation, output
from registry.case_files import shown
from registry.dataset_findings import finding
from registry.errors import IntegrityError
from registry.volumes import WORKERS, Volume, distinct, grid_difference, is_apart, not_finite, read_volume

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

    from registry.findings import Finding


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What dataset.json says about every file, None where it does not say it."""

    orientation: str | None
    values: frozenset[int] | None  # of label maps


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A file that was read once."""

    name: str  # path inside the dataset
    shape: tuple[int, ...] = ()
    affine: Any = None  # (4, 4), None for a file that cannot be read
    digest: str = ""  # of an image's voxels
    findings: tuple[Finding, ...] = ()


def look_at_image(path: Path, name: str, expected: Expected) -> Seen:
    """Read an image and judge its voxels and its header."""
    import numpy as np

    try:
        volume = read_volume(path)
    except IntegrityError as error:
        return _unreadable(path, name, error)
    array = volume.array
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array.T).data)  # nibabel's arrays are in Fortran's order, so nothing is copied
    found = [*_image_findings(volume, name), *_place_findings(volume, name, expected)]
    return Seen(name=name, shape=array.shape, affine=volume.affine, digest=digest.hexdigest(), findings=tuple(found))


def look_at_label_map(path: Path, name: str, expected: Expected) -> Seen:
    """Read a label map and judge its values."""
    try:
        volume = read_volume(path)
    except IntegrityError as error:
        return _unreadable(path, name, error)
    values = distinct(volume.array)
    unknown = [] if expected.values is None else [value for value in values if value not in expected.values]
    found = []
    if unknown:
        found.append(finding("DATA014", name, f"label values that dataset.json does not know: {shown(unknown)}"))
    elif values == [0]:
        found.append(finding("DATA015", name, "the label map is empty"))
    return Seen(name=name, shape=volume.array.shape, affine=volume.affine, findings=tuple(found))


def look_at_all(
    files: Sequence[tuple[Hashable, Path, str, bool]], expected: Expected, *, progress: bool
) -> dict[Hashable, list[Seen]]:
    """Read every file once, a few at a time; return what was seen of each case, in the order of the files.

    A file is its case, its path, its path inside the dataset, and whether it is a label map.
    """

    def look(file: tuple[Hashable, Path, str, bool]) -> Seen:
        _, path, name, is_label = file
        return (look_at_label_map if is_label else look_at_image)(path, name, expected)

    bar = output.count_progress(f"verify {len(files)} files", len(files)) if progress else nullcontext(lambda: None)
    by_case: dict[Hashable, list[Seen]] = {}
    with bar as advance, ThreadPoolExecutor(WORKERS) as pool:
        for (case, *_), seen in zip(files, pool.map(look, files), strict=True):
            by_case.setdefault(case, []).append(seen)
            advance()
    return by_case


def judge_all(by_case: Mapping[Hashable, list[Seen]]) -> Iterator[Finding]:
    """Yield what is wrong with each file, alone and beside the others of its case and of the dataset."""
    first_of: dict[str, str] = {}
    for volumes in by_case.values():
        for volume in volumes:
            yield from volume.findings
        yield from _twice(volumes, first_of)
        yield from _on_one_grid(volumes)


def _unreadable(path: Path, name: str, error: IntegrityError) -> Seen:
    return Seen(name=name, findings=(finding("DATA010", name, error.message.removeprefix(f"{path}: ")),))


def _image_findings(volume: Volume, name: str) -> Iterator[Finding]:
    if bad := not_finite(volume.array):
        yield finding("DATA011", name, f"{bad} voxels are NaN or infinite")
    elif volume.array.min() == volume.array.max():
        yield finding("DATA012", name, f"every voxel is {volume.array.flat[0]}")


def _place_findings(volume: Volume, name: str, expected: Expected) -> Iterator[Finding]:
    if not volume.located:
        yield finding("DATA024", name, "the header says no orientation, so every program guesses one")
    elif is_apart(volume.forms_off_mm, volume.affine):
        message = f"sform and qform are {volume.forms_off_mm:.3g} mm apart, and programs differ in which they take"
        yield finding("DATA025", name, message)
    found = orientation.of_affine(volume.affine)
    if expected.orientation not in (None, found):
        said = orientation.describe(str(expected.orientation))
        yield finding("DATA013", name, f"is {orientation.describe(found)}, dataset.json says {said}")


def _on_one_grid(volumes: list[Seen]) -> Iterator[Finding]:
    """Yield the files of a case that are not on the grid of the first one that can be read."""
    readable = [volume for volume in volumes if volume.affine is not None]
    for volume in readable[1:]:
        first = readable[0]
        if difference := grid_difference(volume.shape, volume.affine, first.shape, first.affine):
            yield finding("DATA016", volume.name, f"not on the grid of {first.name}: {difference}")


def _twice(volumes: list[Seen], first_of: dict[str, str]) -> Iterator[Finding]:
    """Yield the images whose voxels were seen before; `first_of` remembers digest → image."""
    for volume in volumes:
        first = first_of.setdefault(volume.digest, volume.name) if volume.digest else volume.name
        if first != volume.name:
            yield finding("DATA017", volume.name, f"the same voxels as {first}")
