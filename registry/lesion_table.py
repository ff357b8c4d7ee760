"""Tables of lesions for `mreg data import` and `mreg data index`: which image, lesions and cord belong together.

Columns: subject, session, contrast, image, lesion, cord, split. Where every cord is a mask on its image's grid the
dataset gets a label for it; centrelines and masks on other grids are kept in the dataset's folder `cords`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry.collection import ENDINGS, Collection, Source
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.splits import Folds, subject_of
from registry.volumes import grid_difference, read_volume

if TYPE_CHECKING:
    from pathlib import Path

    from trainers.lesion.index import Case

KINDS = (".csv", ".json")
LESION, CORD = "lesion", "sc"
FEWEST_VOXELS = 3  # of a mask in the mean of its slices; a line has one or two
MIXED = "MRI"  # channel of several contrasts


def find_table(path: Path, tests: tuple[str, ...], flips: tuple[bool, bool], folds: Folds) -> Collection:
    """Read a table; raise `MregError` with everything that is wrong in it, by row and column."""
    from trainers.core.errors import TrainingError
    from trainers.lesion.index import read_index

    if path.suffix.lower() not in KINDS:
        raise MregError(f"{path}: neither a folder nor a table", hint="a table of lesions is .csv or .json")
    try:
        cases = read_index(path)
    except TrainingError as error:
        raise MregError(error.message, hint=error.hint) from error
    names = {case.name: name_of(case) for case in cases}
    subjects = {subject_of(name) for name in names.values()}
    wanted = {_entity("sub", subject) for subject in tests}
    if absent := sorted(wanted - subjects):
        raise NotFoundError(f"{path}: no subject {', '.join(absent)}", hint=f"there are: {', '.join(sorted(subjects))}")
    as_label = all(case.cord is not None and _is_mask(case) for case in cases)
    sources = [_source(case, names[case.name], wanted, flips, as_label=as_label) for case in cases]
    if all(source.test for source in sources):
        raise MregError(f"{path}: every subject is a test subject", hint="leave some for the training")
    contrasts = sorted({case.contrast for case in cases})
    return Collection(
        kind="lesions",
        sources=tuple(sources),
        channels=(contrasts[0] if len(contrasts) == 1 else MIXED,),
        labels={"background": 0, CORD: [1, 2], LESION: 2} if as_label else {"background": 0, LESION: 1},
        splits=_splits(path, cases, names, {source.case for source in sources if source.test}, folds),
    )


def write_table(source: Path, table: Path, lesion: str = LESION, cord: str = CORD) -> int:
    """Write the table of a BIDS tree or of a raw nnU-Net dataset, whose labels are named; return how many rows it has.

    A table that is there already is left as it is: somebody may have filled in its column split.
    """
    from trainers.core.errors import TrainingError
    from trainers.lesion.index import from_bids, from_nnunet, write_index

    if table.suffix.lower() not in KINDS:
        raise MregError(f"{table}: no name of a table", hint="name it .csv or .json")
    if table.exists():
        raise ConflictError(f"{table}: is there already", hint="choose another name, or move it away")
    if not source.is_dir():
        raise NotFoundError(f"{source}: no such folder", hint="a BIDS tree, or a raw dataset of nnU-Net")
    try:
        cases = from_nnunet(source, lesion, cord) if (source / "dataset.json").is_file() else from_bids(source)
        write_index(cases, table)
    except TrainingError as error:
        raise MregError(error.message, hint=error.hint.replace("--set lesion_label=", "--lesion-label ")) from error
    return len(cases)


def name_of(case: Case) -> str:
    """Name a case so that its name says subject and contrast, as a BIDS name does.

    A name that does so stays: sub-01_acq-ax_T2w. Others become sub-01_ses-2_desc-scan7_T2w.
    """
    from trainers.lesion.index import contrast_of

    subject, name = _entity("sub", case.subject), case.name
    if subject_of(name) == subject and contrast_of(name) == case.contrast:
        return name
    session = _entity("ses", case.session) if case.session else ""
    word, contrast = (re.sub(r"[^A-Za-z0-9]", "", text) for text in (name, case.contrast))
    return "_".join(part for part in (subject, session, f"desc-{word}", contrast) if part)


def _entity(key: str, text: str) -> str:
    return f"{key}-{re.sub(r'[^A-Za-z0-9]', '', text.removeprefix(f'{key}-'))}"


def _source(case: Case, name: str, tests: set[str], flips: tuple[bool, bool], *, as_label: bool) -> Source:
    masks = [(case.lesion, 2 if as_label else 1, case.lesion_values)]
    if as_label:
        masks.insert(0, (case.cord, 1, case.cord_values))
    return Source(
        case=name,
        images=(case.image,),
        masks=tuple((path, value) for path, value, _ in masks if path is not None),
        counting=tuple(values for _, _, values in masks),
        test=case.split == "test" or subject_of(name) in tests,
        cord=None if as_label else case.cord,
        flips=flips,
    )


def _is_mask(case: Case) -> bool:
    """Whether a cord is a mask on its image's grid, and neither a centreline nor on another one."""
    import nibabel as nib
    import numpy as np

    from registry import orientation

    if case.cord is None or not case.cord.name.endswith(ENDINGS):
        return False
    cord = read_volume(case.cord)
    try:
        image = nib.load(case.image)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise IntegrityError(f"{case.image}: cannot be read: {error}") from error
    if grid_difference(cord.array.shape, cord.affine, image.shape[:3], image.affine):
        return False
    mask = cord.array > 0 if case.cord_values is None else np.isin(cord.array, case.cord_values)
    slices = orientation.reorient(mask, cord.affine, "RPI")[0].sum(axis=(0, 1))
    return bool(slices.any() and slices[slices > 0].mean() >= FEWEST_VOXELS)


def _splits(
    path: Path, cases: list[Case], names: dict[str, str], tests: set[str], folds: Folds
) -> tuple[dict[str, list[str]], ...]:
    """Return the one fold that the column split says, if it says one."""
    left = [case for case in cases if names[case.name] not in tests]
    if not any(case.split == "val" for case in left):
        return ()
    if folds is not None:
        raise MregError(f"{path}: its column split says what --folds would", hint="leave --folds out")
    sides = {"train": [case for case in left if case.split != "val"], "val": [c for c in left if c.split == "val"]}
    if not sides["train"]:
        raise MregError(f"{path}: every case is for validation", hint="leave some for the training: split = train")
    return ({side: sorted(names[case.name] for case in chosen) for side, chosen in sides.items()},)
