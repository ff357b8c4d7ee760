"""Finds the labelled images of a BIDS tree (masks under derivatives/labels) and of a Decathlon or AUC23 folder."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError, MregError, NotFoundError
from registry.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDING = ".nii.gz"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case to import: an image file a channel, and a mask file a label."""

    case: str
    images: tuple[Path, ...]
    volumes: tuple[int | None, ...]  # index in the fourth axis, None for a 3D file
    masks: tuple[tuple[Path, int | None], ...]  # (file, value it gets; None: the file holds the values)
    test: bool = False


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was found: the cases and what dataset.json says about them."""

    kind: str  # "bids" or "decathlon"
    sources: tuple[Source, ...]
    channels: tuple[str, ...]
    labels: dict[str, int | list[int]]
    left_out: tuple[str, ...] = ()  # why an image was not taken, a line each


def find_bids(
    root: Path,
    contrasts: tuple[str, ...],
    labels: dict[str, str],
    regions: dict[str, list[str]],
    tests: tuple[str, ...],
) -> Collection:
    """Find the cases that have every contrast and every mask.

    `contrasts` are tails of file names (T2w, or flip-1_mt-on_MTS), one a channel; `labels` maps a label to the tail of
    its mask after `label-` (sc: SC_seg), values in their order, a later one on top; `regions` maps a label to those it
    unites. What is not given is deduced where the tree leaves one possibility.
    """
    images = {p.name.removesuffix(ENDING): p for p in _images(root)}
    masks = _masks(root)
    contrasts = contrasts or (_only_contrast(root, images, masks),)
    labels = labels or _only_label(root, contrasts, masks)
    sources, left_out = [], []
    for stem, path in sorted(images.items()):
        if not stem.endswith(f"_{contrasts[0]}"):
            continue
        prefix = stem.removesuffix(f"_{contrasts[0]}")
        stems = [f"{prefix}_{contrast}" for contrast in contrasts]
        missing = [s for s in stems if s not in images]
        masked = next((s for s in stems if all(tail in masks.get(s, {}) for tail in labels.values())), None)
        if missing:
            left_out.append(f"{stem}: no image {', '.join(missing)}")
        elif masked is None:
            left_out.append(f"{stem}: no mask {', '.join(t for t in labels.values() if t not in masks.get(stem, {}))}")
        else:
            subject = path.relative_to(root).parts[0]
            values = tuple((masks[masked][tail], value) for value, tail in enumerate(labels.values(), start=1))
            case = stem if len(contrasts) == 1 else f"{prefix}_{contrasts[0].split('_')[-1]}"
            sources.append(
                Source(
                    case=case,
                    images=tuple(images[s] for s in stems),
                    volumes=(None,) * len(stems),
                    masks=values,
                    test=subject in tests,
                )
            )
    _require(root, sources, tests)
    return Collection(
        kind="bids",
        sources=tuple(sources),
        channels=contrasts,
        labels=_label_values(labels, regions),
        left_out=tuple(left_out),
    )


def _images(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise NotFoundError(f"{root}: no such folder", hint="name the BIDS tree, or a folder with a v1 dataset.json")
    for subject in sorted(root.glob("sub-*")):
        yield from sorted(subject.rglob(f"*{ENDING}"))


def _masks(root: Path) -> dict[str, dict[str, Path]]:
    """Return image stem → tail after `label-` → mask file."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted((root / "derivatives" / "labels").rglob(f"*_label-*{ENDING}")):
        stem, _, tail = path.name.removesuffix(ENDING).rpartition("_label-")
        found[stem][tail] = path
    return found


def _only_contrast(root: Path, images: dict[str, Path], masks: dict[str, dict[str, Path]]) -> str:
    """Return the contrast of the labelled images if there is just one."""
    with_mask = {s for s, tails in masks.items() if s in images and any(t.endswith("_seg") for t in tails)}
    counts = Counter(stem.split("_")[-1] for stem in with_mask)
    if len(counts) == 1:
        return next(iter(counts))
    if not counts:
        raise NotFoundError(
            f"{root}: no image has a mask named IMAGE_label-NAME_seg{ENDING} under derivatives/labels",
            hint="masks are looked for as derivatives/labels/sub-01/anat/sub-01_T2w_label-SC_seg.nii.gz",
        )
    listed = ", ".join(f"{contrast} ({count})" for contrast, count in counts.most_common())
    raise MregError(f"{root}: labelled images of several contrasts: {listed}", hint="choose: --contrast T2w")


def _only_label(root: Path, contrasts: tuple[str, ...], masks: dict[str, dict[str, Path]]) -> dict[str, str]:
    tails = Counter(
        tail
        for stem, found in masks.items()
        if any(stem.endswith(f"_{contrast}") for contrast in contrasts)
        for tail in found
        if tail.endswith("_seg")
    )
    if len(tails) == 1:
        tail = next(iter(tails))
        return {tail.removesuffix("_seg").lower(): tail}
    listed = ", ".join(f"{tail} ({count})" for tail, count in tails.most_common()) or "none"
    raise MregError(f"{root}: masks for {', '.join(contrasts)}: {listed}", hint="choose: --label sc=SC_seg")


def _require(root: Path, sources: list[Source], tests: tuple[str, ...]) -> None:
    if not any(not source.test for source in sources):
        raise NotFoundError(
            f"{root}: no labelled training image was found", hint="see --contrast, --label, --test-subject"
        )
    subjects = {source.images[0].relative_to(root).parts[0] for source in sources}
    absent = [subject for subject in tests if subject not in subjects]
    if absent:
        raise NotFoundError(
            f"{root}: test subject {', '.join(absent)} has no labelled image",
            hint=f"there are: {', '.join(sorted(subjects))}",
        )


def _label_values(labels: dict[str, str], regions: dict[str, list[str]]) -> dict[str, int | list[int]]:
    values = {label: value for value, label in enumerate(labels, start=1)}
    written: dict[str, int | list[int]] = {"background": 0, **values}
    for region, parts in regions.items():
        unknown = [name for name in (region, *parts) if name not in values]
        if unknown:
            raise MregError(f"--region {region}={'+'.join(parts)}: no --label named {', '.join(unknown)}")
        written[region] = sorted(values[part] for part in parts)
    return written


def find_decathlon(root: Path) -> Collection:
    """Read a folder with a version-1 dataset.json: Medical Segmentation Decathlon, or AUC23 with its regions."""
    document = read_json(root / "dataset.json")
    training = document.get("training")
    if not isinstance(training, list) or not training:
        raise IntegrityError(
            f"{root / 'dataset.json'}: no list of training cases", hint="is it a BIDS tree or a v2 dataset?"
        )
    if not all(isinstance(item, dict) and "image" in item for item in training):
        raise IntegrityError(f"{root / 'dataset.json'}: a training case has no image")
    masked = sum("label" in item for item in training)
    if masked < len(training) or "labels" not in document:
        raise MregError(
            f"{root / 'dataset.json'}: {masked} of {len(training)} training cases have a mask",
            hint="a segmentation dataset needs one for each",
        )
    channels = tuple(
        str(name) for _, name in sorted(document.get("modality", {"0": "MRI"}).items(), key=lambda i: int(i[0]))
    )
    sources = [_decathlon_source(root, item["image"], item["label"], len(channels), test=False) for item in training]
    sources += [
        _decathlon_source(root, f"imagesTs/{mask.name}", f"labelsTs/{mask.name}", len(channels), test=True)
        for mask in sorted((root / "labelsTs").glob(f"[!.]*{ENDING}"))
    ]
    labels: dict[str, int | list[int]] = {
        re.sub(r"\W+", "_", str(name)): int(value)
        for value, name in sorted(document["labels"].items(), key=lambda i: int(i[0]))
    }
    return Collection(kind="decathlon", sources=tuple(sources), channels=channels, labels=labels)


def _decathlon_source(root: Path, image: str, mask: str, channels: int, *, test: bool) -> Source:
    for written in (image, mask):
        if not (root / written).resolve().is_relative_to(root.resolve()):
            raise IntegrityError(f"{root / 'dataset.json'}: {written} lies outside the folder")
    path = root / image
    case = path.name.removesuffix(ENDING)
    files = [path.with_name(f"{case}_{channel:04d}{ENDING}") for channel in range(channels)]
    numbered = all(file.is_file() for file in files)
    volumes: tuple[int | None, ...] = (None,) if channels == 1 else tuple(range(channels))
    found: dict[str, Any] = {"images": tuple(files) if numbered else (path,) * channels}
    found["volumes"] = (None,) * channels if numbered else volumes
    return Source(case=case, masks=((root / mask, None),), test=test, **found)
