"""Finds the labelled images of a BIDS tree: masks lie under derivatives/labels as IMAGE_label-TAIL.nii.gz."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.collection import ENDINGS, Collection, Source, stem, texts
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MASKS = ("derivatives", "labels")
SEGMENTATION = "_seg"  # what a mask's tail ends in; points and centre lines end in _label
WHO_AND_WHEN = ("sub", "ses", "run", "chunk")  # entities that are no part of a contrast
ABOUT = {"Name": "description", "License": "licence"}

Masks = dict[str, dict[str, "Path"]]  # image → tail after `label-` → file


def find_bids(
    root: Path,
    contrasts: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    regions: dict[str, list[str]] | None = None,
    tests: tuple[str, ...] = (),
) -> Collection:
    """Find the cases that have every contrast and every mask.

    `contrasts` are tails of file names (T2w, or flip-1_mt-on_MTS), one a channel; `labels` maps a label to the tail of
    its mask after `label-` (sc: SC_seg), values in their order, a later one on top; `regions` maps a label to those it
    unites; `tests` are subjects, with or without `sub-`. What is not given is deduced where the tree leaves one
    possibility; raises `MregError` with a list of what there is where it does not.
    """
    if not root.is_dir():
        raise NotFoundError(f"{root}: no such folder", hint="name the BIDS tree, or a folder with a v1 dataset.json")
    images, masks = find_images(root), find_masks(root)
    contrasts = contrasts or (_only_contrast(root, images, masks, labels or {}),)
    labels = labels or _only_label(root, images, masks, contrasts)
    subjects = {subject if subject.startswith("sub-") else f"sub-{subject}" for subject in tests}
    sources: list[Source] = []
    left_out = []
    for name in sorted(name for name in images if has_tail(name, contrasts[0])):
        found, missing = find_case(name, contrasts, tuple(labels.values()), images, masks)
        if found is None:
            left_out.append(f"{name}: no {', '.join(missing)}")
        else:
            sources.append(replace(found, test=subject_of(root, found.images[0]) in subjects))
    _require_cases(root, sources, images, masks, subjects)
    return Collection(
        kind="bids",
        sources=tuple(sources),
        channels=contrasts,
        labels=_label_values(labels, regions or {}),
        about=about_tree(root),
        left_out=tuple(left_out),
    )


def find_case(
    name: str, contrasts: tuple[str, ...], tails: tuple[str, ...], images: dict[str, Path], masks: Masks
) -> tuple[Source | None, list[str]]:
    """Return the case of an image of the first contrast, or what it lacks."""
    prefix = name.removesuffix(f"_{contrasts[0]}")
    channels = [f"{prefix}_{contrast}" for contrast in contrasts]
    # A mask of any channel will do, since all lie on one grid; the first channel's comes first.
    found = {tail: masks[channel][tail] for channel in channels[::-1] for tail in masks.get(channel, ())}
    missing = [f"image {channel}" for channel in channels if channel not in images]
    missing += [f"mask {tail}" for tail in tails if tail not in found]
    if missing:
        return None, missing
    values = tuple((found[tail], value) for value, tail in enumerate(tails, start=1))
    case = _case(prefix, contrasts)
    return Source(case=case, images=tuple(images[channel] for channel in channels), masks=values), []


def _case(prefix: str, contrasts: tuple[str, ...]) -> str:
    """Name a case after its image; after what its channels share where it has several."""
    if len(contrasts) == 1:
        return f"{prefix}_{contrasts[0]}"
    suffixes = {contrast.rpartition("_")[2] for contrast in contrasts}
    return "_".join([prefix, *suffixes]) if len(suffixes) == 1 else prefix


def find_images(root: Path) -> dict[str, Path]:
    """Return the images of a BIDS tree by their names without endings."""
    return _by_name(path for subject in sorted(root.glob("sub-*")) for path in sorted(subject.rglob("sub-*")))


def find_masks(root: Path) -> Masks:
    """Return the masks of a BIDS tree: image → tail after `label-` → file."""
    found: Masks = defaultdict(dict)
    for name, path in _by_name(sorted(root.joinpath(*MASKS).rglob("sub-*_label-*"))).items():
        image, _, tail = name.rpartition("_label-")
        found[image][tail] = path
    return dict(found)


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.name.endswith(ENDINGS) and found.setdefault(stem(path), path) != path:
            raise ConflictError(f"{found[stem(path)]} and {path}: two files of one name", hint="remove one of them")
    return found


def has_tail(name: str, contrast: str) -> bool:
    """Whether an image's name ends in a contrast."""
    return name.endswith(f"_{contrast}")


def subject_of(root: Path, path: Path) -> str:
    """Return the folder sub-… that an image lies in."""
    return path.relative_to(root).parts[0]


def _only_contrast(root: Path, images: dict[str, Path], masks: Masks, labels: dict[str, str]) -> str:
    """Return the contrast of the images that have the masks, or any segmentation, if there is just one."""
    wanted = set(labels.values())
    suffixes = {
        name.rpartition("_")[2]
        for name, tails in masks.items()
        if name in images and (wanted <= set(tails) if wanted else any(t.endswith(SEGMENTATION) for t in tails))
    }
    if len(suffixes) == 1:
        return suffixes.pop()
    if not suffixes and wanted:
        raise NotFoundError(
            f"{root}: no image has the masks {', '.join(sorted(wanted))}{listing(images, masks)}",
            hint="choose: --label sc=SC_seg",
        )
    raise (
        MregError(
            f"{root}: labelled images of several contrasts{listing(images, masks)}",
            hint="choose: --contrast T2w --label sc=SC_seg",
        )
        if suffixes
        else _nothing_labelled(root)
    )


def _only_label(root: Path, images: dict[str, Path], masks: Masks, contrasts: tuple[str, ...]) -> dict[str, str]:
    tails = {
        tail
        for name, found in masks.items()
        if name in images and any(has_tail(name, contrast) for contrast in contrasts)
        for tail in found
        if tail.endswith(SEGMENTATION)
    }
    if len(tails) == 1:
        tail = tails.pop()
        return {tail.removesuffix(SEGMENTATION).lower(): tail}
    what = "several masks" if tails else "no mask"
    raise MregError(
        f"{root}: {what} for {', '.join(contrasts)}{listing(images, masks)}",
        hint="choose: --contrast T2w --label sc=SC_seg",
    )


def listing(images: dict[str, Path], masks: Masks) -> str:
    """Return what could be imported: a line a contrast, with the masks there are and how many."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name in images:
        entities = [part for part in name.split("_") if part.partition("-")[0] not in WHO_AND_WHEN]
        counts["_".join(entities)].update(masks.get(name, {}).keys())
    lines = [
        f"\n  {contrast}: {', '.join(f'{tail} ({count})' for tail, count in tails.most_common()) or 'no masks'}"
        for contrast, tails in sorted(counts.items())
    ]
    return ". There are:" + "".join(lines) if lines else ". There is no image sub-*.nii.gz"


def _nothing_labelled(root: Path) -> NotFoundError:
    return NotFoundError(
        f"{root}: no image has a mask named IMAGE_label-NAME_seg.nii.gz under {'/'.join(MASKS)}",
        hint=f"masks are looked for as {'/'.join(MASKS)}/sub-01/anat/sub-01_T2w_label-SC_seg.nii.gz",
    )


def _require_cases(root: Path, sources: list[Source], images: dict[str, Path], masks: Masks, tests: set[str]) -> None:
    subjects = {subject_of(root, source.images[0]) for source in sources}
    if not subjects:
        raise NotFoundError(
            f"{root}: no image has all of these contrasts and masks{listing(images, masks)}",
            hint="see --contrast and --label",
        )
    if absent := sorted(tests - subjects):
        raise NotFoundError(
            f"{root}: test subject {', '.join(absent)} has no labelled image",
            hint=f"there are: {', '.join(sorted(subjects))}",
        )
    if tests == subjects:
        raise MregError(f"{root}: every subject is a test subject", hint="leave some for the training")


def _label_values(labels: dict[str, str], regions: dict[str, list[str]]) -> dict[str, int | list[int]]:
    values = {label: value for value, label in enumerate(labels, start=1)}
    written: dict[str, int | list[int]] = {"background": 0, **values}
    for region, parts in regions.items():
        unknown = [name for name in (region, *parts) if name not in values]
        if unknown:
            raise MregError(
                f"--region {region}={'+'.join(parts)}: no --label named {', '.join(unknown)}",
                hint="name a region and its parts as labels: --label sc=SC_seg --label lesion=lesion_seg",
            )
        written[region] = sorted({values[region], *(values[part] for part in parts)})
    return written


def about_tree(root: Path) -> dict[str, str]:
    """Return what dataset_description.json says of the tree, under the keys of dataset.json."""
    path = root / "dataset_description.json"
    return texts(read_json(path), ABOUT) if path.is_file() else {}
