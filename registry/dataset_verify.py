"""`mreg data verify`: everything that is wrong with a raw dataset's images, labels and splits, in one go."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import orientation
from registry.bids import ENDING
from registry.dataset import GRID_TOLERANCE, read_volume
from registry.errors import IntegrityError, MregError
from registry.files import read_json
from registry.findings import Finding, Report
from registry.labels import check_labels, regions
from registry.schemas import validate
from registry.splits import subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PARTS = ("Tr", "Ts")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """What one pass over a file tells; the voxels themselves are not kept."""

    path: str  # inside the dataset
    shape: tuple[int, ...] = ()
    affine: Any = None  # (4, 4), None for a file that cannot be read
    digest: str = ""
    values: tuple[int, ...] = ()  # of a label map
    findings: tuple[Finding, ...] = ()


def verify(dataset: Path) -> Report:
    """Return all findings on an nnU-Net raw dataset; each image is read once."""
    findings: list[Finding] = []
    if not dataset.is_dir():
        raise MregError(f"{dataset}: no such folder", hint="name a folder DatasetNNN_Name")
    document = read_json(dataset / "dataset.json")
    if not isinstance(document, dict):
        raise IntegrityError(f"{dataset / 'dataset.json'}: not a JSON object")
    findings += validate("dataset", document, "dataset.json")
    broken = any(finding.level == "error" for finding in findings)
    if not broken:
        findings += check_labels(document)
        for part in PARTS:
            findings += _part(dataset, part, document)
        findings += _splits(dataset)
    return Report(target=str(dataset), findings=tuple(findings))


def _part(dataset: Path, part: str, document: dict[str, Any]) -> Iterator[Finding]:
    """Check training or test files: which there are, then each of them, then the cases."""
    images, labels = dataset / f"images{part}", dataset / f"labels{part}"
    if not images.is_dir():
        if part == "Tr":
            yield Finding(
                code="DATA001", message="no folder imagesTr", path="imagesTr", hint="mreg data import writes it"
            )
        return
    channels = range(len(document["channel_names"]))
    ending = document["file_ending"]
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(images.iterdir()):
        found = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
        if found:
            cases[found[1]][int(found[2])] = path
        elif not path.name.startswith("."):
            yield Finding(
                code="DATA002",
                message=f"not named CASE_0000{ending}",
                path=_inside(dataset, path),
                hint="rename or remove it",
            )
    masks = {p.name.removesuffix(ending): p for p in sorted(labels.glob(f"[!.]*{ending}"))} if labels.is_dir() else {}
    yield from _missing(dataset, part, cases, masks, channels)
    yield from _counts(part, cases, document)
    if ending != ENDING:
        yield Finding(
            code="DATA003",
            level="note",
            message=f"{ending} images are not opened",
            path="dataset.json",
            hint="use .nii.gz",
        )
        return
    allowed = {value for values in regions(document).values() for value in values} | {0}
    allowed |= {int(v) for k, v in document["labels"].items() if k == "ignore" and isinstance(v, int)}
    with ThreadPoolExecutor() as pool:
        read_images = {
            case: pool.map(lambda p: _read(dataset, p, document), files.values()) for case, files in cases.items()
        }
        read_masks = {case: pool.submit(_read_mask, dataset, path, allowed) for case, path in masks.items()}
        seen: dict[str, str] = {}
        for case in sorted({*cases, *masks}):
            volumes = [*read_images.get(case, ())]
            for volume in volumes:
                yield from volume.findings
                yield from _duplicate(volume, seen)
            if case in read_masks:
                mask = read_masks[case].result()
                yield from mask.findings
                volumes.append(mask)
            yield from _one_grid(volumes)


def _missing(
    dataset: Path, part: str, cases: dict[str, dict[int, Path]], masks: dict[str, Path], channels: range
) -> Iterator[Finding]:
    for case, files in cases.items():
        for channel in sorted({*channels} - {*files}):
            path = f"images{part}/{case}_{channel:04d}{ENDING}"
            yield Finding(
                code="DATA004",
                message=f"channel {channel} of case {case} is missing",
                path=path,
                hint="add the file or remove the case",
            )
        for channel in sorted({*files} - {*channels}):
            yield Finding(
                code="DATA005", message=f"channel {channel} is not in dataset.json's channel_names",
                path=_inside(dataset, files[channel]), hint="add the channel to dataset.json or remove the file",
            )  # fmt: skip
        if case not in masks and (part == "Tr" or masks):
            yield Finding(
                code="DATA006",
                message=f"case {case} has no label map",
                path=f"labels{part}/{case}{ENDING}",
                hint="add it or remove the case",
            )
    for case in sorted({*masks} - {*cases}):
        yield Finding(
            code="DATA007",
            message="label map without an image",
            path=_inside(dataset, masks[case]),
            hint="remove it or add the image",
        )


def _counts(part: str, cases: dict[str, dict[int, Path]], document: dict[str, Any]) -> Iterator[Finding]:
    key = {"Tr": "numTraining", "Ts": "numTest"}[part]
    if key not in document:
        if part == "Tr":
            yield Finding(
                code="DATA008",
                message="numTraining is missing",
                path="dataset.json",
                hint=f'"numTraining": {len(cases)}',
            )
    elif document[key] != len(cases):
        message = f"{key} = {document[key]}, but images{part} holds {len(cases)} cases"
        level = "error" if part == "Tr" else "warning"
        yield Finding(code="DATA009", level=level, message=message, path="dataset.json", hint=f'"{key}": {len(cases)}')  # type: ignore[arg-type]


def _read(dataset: Path, path: Path, document: dict[str, Any]) -> Volume:
    """Read an image and look at its voxels and orientation."""
    import numpy as np

    name = _inside(dataset, path)
    try:
        array, affine = read_volume(path)
    except IntegrityError as error:
        return Volume(path=name, findings=(_unreadable(error, path, name),))
    findings = []
    if array.dtype.kind == "f" and (bad := int(array.size - np.isfinite(array).sum())):
        findings.append(
            Finding(
                code="DATA011",
                message=f"{bad} voxels are NaN or infinite",
                path=name,
                hint="replace them before importing",
            )
        )
    elif array.size and array.min() == array.max():
        findings.append(
            Finding(
                code="DATA012",
                level="warning",
                message=f"every voxel is {array.flat[0]}",
                path=name,
                hint="is it the right image?",
            )
        )
    found, written = orientation.of_affine(affine), document["image_orientation"]
    if found != written:
        findings.append(
            Finding(
                code="DATA013",
                message=f"is {orientation.describe(found)}, dataset.json says {orientation.describe(written)}",
                path=name,
                hint="import the images again with one --orientation",
            )
        )
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return Volume(path=name, shape=array.shape, affine=affine, digest=digest, findings=tuple(findings))


def _read_mask(dataset: Path, path: Path, allowed: set[int]) -> Volume:
    import numpy as np

    name = _inside(dataset, path)
    try:
        array, affine = read_volume(path)
    except IntegrityError as error:
        return Volume(path=name, findings=(_unreadable(error, path, name),))
    values = np.unique(array)
    wrong = [value for value in values.tolist() if value not in allowed]
    findings = []
    if wrong:
        listed = ", ".join(f"{value:g}" for value in wrong[:5]) + (" …" if len(wrong) > 5 else "")  # noqa: PLR2004
        findings.append(
            Finding(
                code="DATA014",
                message=f"label values that dataset.json does not know: {listed}",
                path=name,
                hint="correct the mask or add the label",
            )
        )
    elif values.max(initial=0) == 0:
        findings.append(
            Finding(
                code="DATA015",
                level="note",
                message="the label map is empty",
                path=name,
                hint="right for a case without the structure",
            )
        )
    return Volume(path=name, shape=array.shape, affine=affine, findings=tuple(findings))


def _unreadable(error: IntegrityError, path: Path, name: str) -> Finding:
    return Finding(code="DATA010", message=error.message.removeprefix(f"{path}: "), path=name, hint="replace the file")


def _one_grid(volumes: list[Volume]) -> Iterator[Finding]:
    """Channels and label map of a case must lie on one grid."""
    import numpy as np

    readable = [volume for volume in volumes if volume.affine is not None]
    for volume in readable[1:]:
        first = readable[0]
        if volume.shape != first.shape:
            message = f"{volume.shape} voxels, {first.path} has {first.shape}"
        elif not np.allclose(volume.affine, first.affine, atol=GRID_TOLERANCE):
            off = np.abs(volume.affine - first.affine).max()
            message = f"lies on another grid than {first.path}: affines differ by up to {off:.3g} mm"
        else:
            continue
        yield Finding(
            code="DATA016", message=message, path=volume.path, hint="resample it onto the image, or draw it again"
        )


def _duplicate(volume: Volume, seen: dict[str, str]) -> Iterator[Finding]:
    if not volume.digest:
        return
    first = seen.setdefault(volume.digest, volume.path)
    if first != volume.path:
        yield Finding(
            code="DATA017",
            level="warning",
            message=f"the same voxels as {first}",
            path=volume.path,
            hint="remove one of them",
        )


def _splits(dataset: Path) -> Iterator[Finding]:
    """Check splits_final.json against the cases, and that no subject stands on both sides."""
    path = dataset / "splits_final.json"
    if not path.is_file():
        return
    try:
        splits = read_json(path)
        folds = [(list(split["train"]), list(split["val"])) for split in splits]
    except (IntegrityError, TypeError, KeyError) as error:
        yield Finding(
            code="DATA018",
            message=f"not a list of train and val: {error}",
            path=path.name,
            hint="remove it: it is made anew",
        )
        return
    cases = {re.sub(r"_\d{4}\.nii\.gz$", "", p.name) for p in (dataset / "imagesTr").glob(f"[!.]*{ENDING}")}
    for number, (train, val) in enumerate(folds):
        unknown = sorted({*train, *val} - cases)
        if unknown:
            yield Finding(
                code="DATA019",
                message=f"fold {number} names cases that are not there: {', '.join(unknown[:5])}",
                path=path.name,
                hint="remove the file: it is made anew",
            )
        both = sorted({subject_of(case) for case in train} & {subject_of(case) for case in val})
        if both:
            yield Finding(
                code="DATA020",
                level="warning",
                message=f"fold {number}: {', '.join(both[:5])} in training and validation",
                path=path.name,
                hint="split by subject",
            )


def _inside(dataset: Path, path: Path) -> str:
    return path.relative_to(dataset).as_posix()
