"""`mreg data import`: labelled images → an nnU-Net raw dataset in one orientation that is written down."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from registry import orientation, output
from registry.bids import ENDING, Collection, Source, find_bids, find_decathlon
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import json_text, read_json, sha256, write_json
from registry.splits import subject_splits

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LARGEST_ANNEX_POINTER = 1024  # bytes
GRID_TOLERANCE = 1e-3  # mm, in any entry of the affine


def import_dataset(
    source: Path,
    destination: Path,
    *,
    number: int,
    name: str = "",
    contrasts: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    regions: dict[str, list[str]] | None = None,
    tests: tuple[str, ...] = (),
    code: str = "RPI",
    folds: int | None = None,
    threshold: float = 0.5,
) -> Path:
    """Import a BIDS tree or a Decathlon/AUC23 folder; return DESTINATION/DatasetNNN_Name.

    Written under a temporary name and renamed at the end. A second call with the same inputs changes nothing; a dataset
    of other content is never touched.
    """
    if not orientation.is_valid(code):
        raise MregError(f"--orientation {code!r} is none of the 48 codes", hint='SCT\'s letters, for example "RPI"')
    if (source / "dataset.json").is_file():
        collection = find_decathlon(source)
    else:
        collection = find_bids(source, contrasts, labels or {}, regions or {}, tests)
    for line in collection.left_out:
        output.warn(f"left out: {line}")
    _require_content(collection)
    document = _describe(collection, name, code)
    target = destination / f"Dataset{number:03d}_{document['name']}"
    options = json_text([document, threshold, folds, [(s.case, s.test) for s in collection.sources]])
    digest = _digest(collection, options)
    document["source"] = {"kind": collection.kind, **_commit(source), "sha256": digest}
    if target.exists():
        _require_same(target, digest)
        output.say(f"{target}: imported already")
        return target
    _require_free_number(destination, number)
    partial = destination / f".{target.name}.part"
    shutil.rmtree(partial, ignore_errors=True)  # what a killed import left behind
    partial.mkdir(parents=True)
    try:
        _convert_all(collection, partial, code, threshold)
        cases = [s.case for s in collection.sources if not s.test]
        write_json(partial / "splits_final.json", subject_splits(cases, folds))
        write_json(partial / "dataset.json", document)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    output.say(f"{target}: {document['numTraining']} training and {document['numTest']} test cases")
    return target


def _describe(collection: Collection, name: str, code: str) -> dict[str, Any]:
    """Return nnU-Net's dataset.json and what we add to it."""
    foreground = [label for label in collection.labels if label != "background"]
    name = name or "".join(re.sub(r"\W+", "", word).capitalize() for word in (*foreground, *collection.channels))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise MregError(
            f"--name {name!r}: a dataset's name is letters, digits and _", hint="for example --name SpinalCordT2w"
        )
    document: dict[str, Any] = {
        "name": name,
        "channel_names": {str(number): channel for number, channel in enumerate(collection.channels)},
        "labels": collection.labels,
    }
    if any(isinstance(value, list) for value in collection.labels.values()):
        # nnU-Net writes the regions in this order, one over another, each with the class that it adds.
        document["regions_class_order"] = [number for number, _ in enumerate(foreground, start=1)]
    return document | {
        "numTraining": sum(not s.test for s in collection.sources),
        "numTest": sum(s.test for s in collection.sources),
        "file_ending": ENDING,
        "image_orientation": code,
    }


def _convert_all(collection: Collection, folder: Path, code: str, threshold: float) -> None:
    """Write every case; report all that cannot be read in one error."""
    for name in (
        "imagesTr",
        "labelsTr",
        *(("imagesTs", "labelsTs") if any(s.test for s in collection.sources) else ()),
    ):
        (folder / name).mkdir()
    problems: list[str] = []

    def convert(source: Source) -> None:
        try:
            _convert(source, folder, code, threshold)
        except IntegrityError as error:
            problems.append(error.message)

    with output.stage(f"import {len(collection.sources)} cases"), ThreadPoolExecutor() as pool:
        list(pool.map(convert, collection.sources))  # zlib lets go of the interpreter
    if problems:
        raise IntegrityError("\n".join(sorted(problems)), hint="mend or remove these files, then import again")


def _convert(source: Source, folder: Path, code: str, threshold: float) -> None:
    import nibabel as nib
    import numpy as np

    part = "Ts" if source.test else "Tr"
    grid: tuple[tuple[int, ...], NDArray[np.float64]] | None = None
    for channel, (path, volume) in enumerate(zip(source.images, source.volumes, strict=True)):
        array, affine = read_volume(path, volume)
        grid = grid or (array.shape, affine)
        _require_same_grid(path, array, affine, grid)
        turned, turned_affine = orientation.reorient(array, affine, code)
        nib.save(_image(turned, turned_affine), folder / f"images{part}" / f"{source.case}_{channel:04d}{ENDING}")
    assert grid is not None  # noqa: S101 - a source has at least one image
    label = np.zeros(grid[0], dtype=np.uint8)
    for path, value in source.masks:
        array, affine = read_volume(path)
        _require_same_grid(path, array, affine, grid)
        if value is None:
            label = _as_labels(path, array)
        else:
            label[array > threshold] = value
    turned, turned_affine = orientation.reorient(label, grid[1], code)
    nib.save(_image(turned, turned_affine), folder / f"labels{part}" / f"{source.case}{ENDING}")


def read_volume(path: Path, volume: int | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a NIfTI file's voxels (x, y, z), scaled, and its affine; one volume of a 4D file.

    Raises `IntegrityError` for a file that is missing, truncated, not NIfTI or of another dimension.
    """
    import nibabel as nib
    import numpy as np

    if _is_annex_pointer(path):
        raise IntegrityError(f"{path}: its content was not fetched: git annex get {path.name}")
    try:
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
    except (
        OSError,
        EOFError,
        ValueError,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:
        raise IntegrityError(
            f"{path}: cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "gzip"):
            raise IntegrityError(f"{path}: damaged: {error}") from error
        raise
    if volume is not None and array.ndim == 4 and volume < array.shape[3]:  # noqa: PLR2004 - x, y, z, volume
        array = array[..., volume]
    array = array.reshape(array.shape[:3]) if array.ndim > 3 and array.size == np.prod(array.shape[:3]) else array  # noqa: PLR2004
    if array.ndim != 3:  # noqa: PLR2004
        raise IntegrityError(f"{path}: {array.ndim} dimensions {array.shape}, expected 3")
    return array, np.asarray(image.affine)


def _image(array: NDArray[Any], affine: NDArray[np.floating[Any]]) -> Any:  # a nibabel image
    """Return an image with a new header: no free text travels along."""
    import nibabel as nib
    import numpy as np

    narrower = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32}
    image = nib.Nifti1Image(
        np.ascontiguousarray(array).astype(narrower.get(array.dtype, array.dtype), copy=False), affine
    )
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


def _as_labels(path: Path, array: NDArray[Any]) -> NDArray[np.uint8]:
    import numpy as np

    rounded = np.rint(array)
    if not np.allclose(array, rounded, atol=1e-3) or rounded.min() < 0 or rounded.max() > np.iinfo(np.uint8).max:
        raise IntegrityError(f"{path}: label values are not whole numbers from 0 to 255")
    labels: NDArray[np.uint8] = rounded.astype(np.uint8)
    return labels


def _require_same_grid(
    path: Path, array: NDArray[Any], affine: NDArray[np.float64], grid: tuple[tuple[int, ...], NDArray[np.float64]]
) -> None:
    import numpy as np

    shape, expected = grid
    if array.shape != shape:
        raise IntegrityError(f"{path}: {array.shape} voxels, its image has {shape}")
    if not np.allclose(affine, expected, atol=GRID_TOLERANCE):
        off = float(np.abs(affine - expected).max())
        raise IntegrityError(f"{path}: another grid than its image: the affines differ by up to {off:.3g} mm")


def _require_content(collection: Collection) -> None:
    """Say which files were never fetched, before anything is written."""
    files = [*(p for s in collection.sources for p in s.images), *(p for s in collection.sources for p, _ in s.masks)]
    pointers = [path for path in files if _is_annex_pointer(path)]
    if pointers:
        raise IntegrityError(
            f"{pointers[0]} and {len(pointers) - 1} more: git-annex has not fetched them", hint="git annex get ."
        )
    absent = [path for path in files if not path.is_file()]
    if absent:
        raise IntegrityError("\n".join(f"{path}: no such file" for path in sorted(set(absent))))
    names = [source.case for source in collection.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MregError(
            f"several images would be case {', '.join(twice)}", hint="name the contrast with more of its entities"
        )


def _is_annex_pointer(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        return True
    if not path.is_file() or path.stat().st_size > LARGEST_ANNEX_POINTER:
        return False
    return path.read_bytes().startswith(b"/annex/objects/")


def _digest(collection: Collection, options: str) -> str:
    """Return the SHA-256 of everything that the dataset is made from."""
    whole = hashlib.sha256(options.encode())
    files = [p for s in collection.sources for p in (*s.images, *(mask for mask, _ in s.masks))]
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(sha256, files):
            whole.update(digest.encode())
    return whole.hexdigest()


def _commit(source: Path) -> dict[str, Any]:
    """Return the commit of a Git(-annex) clone that tracks the source, and whether its files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    if shutil.which("git") is None or not git("ls-files", "--", "."):
        return {}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}


def _require_same(target: Path, digest: str) -> None:
    there = read_json(target / "dataset.json") if (target / "dataset.json").is_file() else {}
    if not isinstance(there, dict) or (there.get("source") or {}).get("sha256") != digest:
        raise ConflictError(
            f"{target}: exists with other content", hint="choose another --dataset-id or --name, or move it away"
        )


def _require_free_number(destination: Path, number: int) -> None:
    """nnU-Net finds datasets by number: two of one number stop it."""
    others = [path.name for path in destination.glob(f"Dataset{number:03d}_*")]
    if others:
        raise ConflictError(
            f"{destination}: number {number} belongs to {others[0]}", hint="choose another --dataset-id"
        )
