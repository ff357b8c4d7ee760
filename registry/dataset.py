"""`mreg data import`: labelled images → an nnU-Net raw dataset in one orientation that is written down."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from registry import git, lesion_table, orientation, output
from registry.bids import find_bids
from registry.case_files import CORDS, write_case
from registry.collection import ENDING, Collection, Source
from registry.decathlon import find_decathlon
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import alone, json_text, read_json, sha256, write_json
from registry.labels import check_labels
from registry.splits import Folds, subject_splits
from registry.volumes import WORKERS, is_annex_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST_LISTED = 20  # of the problems of one kind


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
    folds: Folds = None,
    threshold: float = 0.5,
    flips: tuple[bool, bool] = (False, False),
) -> Path:
    """Import a BIDS tree, a Decathlon/AUC23 folder or a table of lesions; return DESTINATION/DatasetNNN_Name.

    `flips` turn contours of Jim along columns and rows. Written under a temporary name and renamed at the end. A second
    call with the same inputs changes nothing; a dataset of other content is never touched.
    """
    if not orientation.is_valid(code):
        raise MregError(f"--orientation {code!r} is none of the 48 codes", hint='SCT\'s letters, for example "RPI"')
    if not 0 <= threshold < 1:
        raise MregError(f"--threshold {threshold}: not from 0 to below 1", hint="a soft mask counts above this value")
    if source.is_file():
        collection = lesion_table.find_table(source, tests, flips, folds)
        _refuse(source, {"--contrast": contrasts, "--label": labels, "--region": regions}, "its columns say")
    else:
        collection = _find(source, contrasts, labels or {}, regions or {}, tests)
    for line in collection.left_out:
        output.warn(f"left out: {line}")
    require_files(collection.sources)
    document = _describe(collection, name, code)
    target = destination / f"Dataset{number:03d}_{document['name']}"
    # What a setting or a file changes in the dataset, it changes here too.
    said = [document, threshold, folds, [(s.case, s.test) for s in collection.sources]]
    if source.is_file():  # a table
        said.append([collection.splits, flips, [s.counting for s in collection.sources]])
    options = json_text(said)
    digest = digest_of(collection.sources, options)
    document["source"] = {"kind": collection.kind, **commit_of(source), "sha256": digest}
    with alone(destination):
        if target.exists() or target.is_symlink():
            _require_same(target, digest, collection)
            output.say(f"{target}: already imported")
            return target
        require_free_number(destination, number)
        _write(collection, target, document, threshold, folds)
    output.say(f"{target}: {document['numTraining']} training and {document['numTest']} test cases")
    return target


def _find(
    source: Path,
    contrasts: tuple[str, ...],
    labels: dict[str, str],
    regions: dict[str, list[str]],
    tests: tuple[str, ...],
) -> Collection:
    if not (source / "dataset.json").is_file():
        return find_bids(source, contrasts, labels, regions, tests)
    flags = {"--contrast": contrasts, "--label": labels, "--region": regions, "--test-subject": tests}
    _refuse(source, flags, "its dataset.json says")
    return find_decathlon(source)


def _refuse(source: Path, flags: dict[str, Any], who: str) -> None:
    """Raise `MregError` where flags are given that the source itself answers."""
    given = [flag for flag, value in flags.items() if value]
    if given:
        raise MregError(f"{source}: {who} what {', '.join(given)} would", hint=f"leave {', '.join(given)} out")


def _describe(collection: Collection, name: str, code: str) -> dict[str, Any]:
    """Return nnU-Net's dataset.json and what we add to it; raise `MregError` for labels that nnU-Net cannot take."""
    foreground = [label for label in collection.labels if label != "background"]
    contrasts = dict.fromkeys(channel.rpartition("_")[2] for channel in collection.channels)
    words = [re.sub(r"[^A-Za-z0-9]+", "", word) for word in (*foreground, *contrasts)]
    name = name or "".join(word[:1].upper() + word[1:] for word in words)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise MregError(
            f"--name {name!r}: a dataset's name is letters, digits, - and _", hint="for example --name SpinalCordT2w"
        )
    document: dict[str, Any] = {
        "name": name,
        **collection.about,
        "channel_names": {str(number): channel for number, channel in enumerate(collection.channels)},
        "labels": collection.labels,
    }
    if any(isinstance(value, list) for value in collection.labels.values()):
        # nnU-Net writes the regions in this order, one over another, each with the class that it adds.
        document["regions_class_order"] = [number for number, _ in enumerate(foreground, start=1)]
    for finding in check_labels(document):
        if finding.level == "error":
            raise MregError(finding.message, hint=finding.hint)
    return document | {
        "numTraining": sum(not s.test for s in collection.sources),
        "numTest": sum(s.test for s in collection.sources),
        "file_ending": ENDING,
        "image_orientation": code,
    }


def _write(collection: Collection, target: Path, document: dict[str, Any], threshold: float, folds: Folds) -> None:
    """Write the dataset, whole or not at all."""
    with making(target) as folder:
        for part in ("Tr", "Ts") if document["numTest"] else ("Tr",):
            (folder / f"images{part}").mkdir(parents=True)
            (folder / f"labels{part}").mkdir()
        if any(source.cord for source in collection.sources):
            (folder / CORDS).mkdir()
        _write_cases(collection, folder, document, threshold)
        cases = [source.case for source in collection.sources if not source.test]
        write_json(folder / "splits_final.json", list(collection.splits) or subject_splits(cases, folds))
        write_json(folder / "dataset.json", document)


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """Give a folder beside the dataset's place, which takes that name when it is whole; else it is removed."""
    for left in target.parent.glob(f".{target.name.partition('_')[0]}_*.part"):
        shutil.rmtree(left, ignore_errors=True)  # by an import of this number that was killed
    partial = target.with_name(f".{target.name}.part")
    try:
        yield partial
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_cases(collection: Collection, folder: Path, document: dict[str, Any], threshold: float) -> None:
    """Write every case; report all that cannot be read in one error."""
    values = {value for value in collection.labels.values() if isinstance(value, int)}
    total = len(collection.sources)
    problems: list[str] = []

    def write(source: Source) -> list[str]:
        code, channels = document["image_orientation"], len(collection.channels)
        try:
            return write_case(source, folder, code, threshold, values, channels)
        except IntegrityError as error:
            problems.append(error.message)
            return []

    with output.count_progress(f"import {total} cases", total) as advance, ThreadPoolExecutor(WORKERS) as pool:
        for doubts in pool.map(write, collection.sources):  # zlib lets go of the interpreter
            for doubt in doubts:
                output.warn(doubt)
            advance()
    if problems:
        raise IntegrityError(listed(sorted(problems)), hint="mend or remove these files, then import again")


def require_files(sources: Sequence[Source]) -> None:
    """Name the files that were never fetched or are not there, and cases of one name, before anything is written."""
    files = sorted({path for source in sources for path in source.files})
    pointers = [str(path) for path in files if is_annex_pointer(path)]
    if pointers:
        raise IntegrityError(
            f"git-annex has not fetched {len(pointers)} of {len(files)} files:\n{listed(pointers)}",
            hint="in that clone: git annex get .",
        )
    absent = [f"{path}: no such file" for path in files if not path.is_file()]
    if absent:
        raise NotFoundError(listed(absent), hint="add the files or take the cases out")
    counts = Counter(source.case for source in sources)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ConflictError(f"several images would be case {', '.join(twice)}", hint="rename one, or remove it")


def listed(lines: list[str]) -> str:
    """Return the first lines, and how many there are more."""
    more = [f"… and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return "\n".join([*lines[:MOST_LISTED], *more])


def digest_of(sources: Sequence[Source], options: str) -> str:
    """Return the SHA-256 of everything that the dataset is made from."""
    whole = hashlib.sha256(options.encode())
    files = [
        path
        for source in sources
        for path in (*source.images, *(mask for mask, _ in source.masks), *([source.cord] if source.cord else ()))
    ]
    with output.count_progress("read the source", len(files)) as advance, ThreadPoolExecutor(WORKERS) as pool:
        for digest in pool.map(sha256, files):
            whole.update(digest.encode())
            advance()
    return whole.hexdigest()


def commit_of(source: Path) -> dict[str, Any]:
    """Return the commit of a Git(-annex) clone that tracks the source, and whether its files differ from it."""
    quiet = "--no-optional-locks"  # so that nothing is written into somebody else's clone
    if not git.answer(source, quiet, "ls-files", "--", "."):
        return {}
    dirty = git.answer(source, quiet, "status", "--porcelain", "--", ".") != ""
    return {"commit": git.answer(source, "rev-parse", "HEAD"), "dirty": dirty}


def _require_same(target: Path, digest: str, collection: Collection) -> None:
    """Raise `ConflictError` unless the dataset was made from the same source and has all its files."""
    there = read_json(target / "dataset.json") if (target / "dataset.json").is_file() else {}
    made_from = there.get("source") if isinstance(there, dict) else None
    if not isinstance(made_from, dict) or made_from.get("sha256") != digest:
        raise ConflictError(
            f"{target}: exists with other content", hint="choose another --dataset-id or --name, or move it away"
        )
    names = ["splits_final.json"]
    for source in collection.sources:
        part = "Ts" if source.test else "Tr"
        names.append(f"labels{part}/{source.case}{ENDING}")
        names += [f"images{part}/{source.case}_{n:04d}{ENDING}" for n, _ in enumerate(collection.channels)]
    lost = [name for name in names if not (target / name).is_file()]
    if lost:
        raise ConflictError(
            f"{target}: was imported from this source, but {lost[0]} is gone", hint="move it away, then import again"
        )


def require_free_number(destination: Path, number: int, kind: str = "Dataset") -> None:
    """nnU-Net finds datasets by number: two of one number stop it."""
    others = [path.name for path in destination.glob(f"{kind}{number:03d}_*")]
    if others:
        raise ConflictError(
            f"{destination}: number {number} belongs to {others[0]}", hint="choose another --dataset-id"
        )
