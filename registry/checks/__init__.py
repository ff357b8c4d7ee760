"""Rules, one module a subject: small functions that yield findings, all listed in their module's RULES."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.errors import MregError, NotFoundError
from registry.findings import Finding, Level, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.checks.rules import Rule


class Kind(NamedTuple):
    """A kind of finding, for lists of rules."""

    code: str
    level: Level
    summary: str


def check(
    target: str | Path | None = None,
    *,
    data: bool = False,
    against: str | None = None,
    run: bool = False,
    image: Path | None = None,
    full: bool = False,
    registry: str | None = None,
) -> Report:
    """Return everything that is wrong with a repo, dataset, run, archive or release; nothing of it is executed.

    Without a target it is the repo, dataset or run that one stands in. A target that is no path is the address of an
    archive, `ORG/REPO[@REF]`, or a release `NAME@TAG`. `data` reads also the images of a repo's dataset, `against`
    tells what changed since a release, `run` runs an archive on an image (in a process of its own), `full` reads all
    of an archive at an address. Raises `MregError` for a target that is none of these.
    """
    found = list(dict.fromkeys(_all(target, data=data, full=full, registry=registry)))
    if against or run:
        here = _standing_in() if target is None else target
        if run:
            found += _smoke(Path(here), image)
        if against:
            from registry import differences

            found += differences.findings(here, against, registry)
    return Report(target=str(_standing_in() if target is None else target), findings=tuple(found))


def _all(target: str | Path | None, *, data: bool, full: bool, registry: str | None) -> Iterator[Finding]:
    """Find out what the target is, and yield what its rules find."""
    target = _standing_in() if target is None else target
    path = Path(target)
    try:
        there = path.exists()
    except ValueError as error:  # a NUL in the name
        raise MregError(f"{str(target)!r}: {error}") from error
    if there:
        yield from _on_disk(path, data=data)
    elif isinstance(target, str):
        from registry.checks import remote

        yield from remote.findings(target, full=full, registry=registry)
    else:
        raise NotFoundError(f"{target}: no such file or folder", hint="name a repo, dataset, run or archive")


def _smoke(path: Path, image: Path | None) -> list[Finding]:
    """Run the archive, or every archive that is said to be one; a repo or run is packed first."""
    if not path.is_file():
        raise MregError(
            f"{path}: --run takes an archive", hint="mreg package, then mreg check dist/TAG/ARCHIVE.zip --run"
        )
    from registry import smoke

    return list(smoke.findings(path, image=image))


def _standing_in() -> Path:
    """Return this folder, or the repo that holds it where this folder is none of the targets."""
    here = Path.cwd()
    if any((here / name).is_file() for name in ("model.toml", "dataset.json", "plans.json")):
        return Path()
    return next((folder for folder in here.parents if (folder / "model.toml").is_file()), Path())


def _on_disk(path: Path, *, data: bool) -> Iterator[Finding]:
    dataset = (path / "imagesTr").is_dir() or (path / "pretrain_data.json").is_file()
    if path.is_dir() and dataset and not (path / "model.toml").is_file():
        from registry.dataset_verify import verify

        yield from verify(path).findings
        return
    path = path.resolve()
    if path.is_file():
        from registry.checks import archive

        yield from archive.findings(path)
    elif (path / "model.toml").is_file():
        from registry.checks import repo

        yield from repo.findings(path)
        if data:
            yield from _data(path)
    elif (path / "plans.json").is_file():
        from registry.checks import run

        yield from run.findings(path)
    elif (path / "dataset.json").is_file():
        hint = "mreg data import writes a dataset"
        yield Finding(code="DATA001", message="no folder imagesTr", path="imagesTr", hint=hint)
    else:
        raise MregError(
            f"{path}: neither a repo (model.toml), a dataset (dataset.json, imagesTr), a run (plans.json) nor a zip",
            hint="mreg check path/to/model_seg_sc_t2",
        )


def _data(root: Path) -> Iterator[Finding]:
    """Yield the findings on the dataset of a repo, their paths as seen from the repo."""
    from dataclasses import replace

    from registry.dataset_verify import verify
    from registry.model_toml import find_repo

    try:
        dataset = find_repo(root).dataset
        report = verify(dataset)
    except MregError as error:
        yield Finding(code="DATA001", message=error.message, hint=error.hint)
        return
    for finding in report.findings:
        place = (dataset / finding.path).resolve()
        inside = place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)
        yield replace(finding, path=inside)


def all_rules() -> list[Rule[Any]]:
    """Return every rule of repo, run, archive and release, sorted by code."""
    from registry.checks import (
        archive,
        at_hand,
        checkpoint,
        contract,
        encoder,
        fit,
        json_files,
        model,
        naming,
        network,
        papers,
        privacy,
        release,
        repo,
        run,
        trainer,
        truth,
    )  # fmt: skip

    rules: list[Rule[Any]] = [
        *naming.RULES, *truth.RULES, *repo.RULES, *papers.RULES, *at_hand.REPO_RULES, *run.RULES, *at_hand.RUN_RULES,
        *contract.RULES, *json_files.RULES, *model.RULES, *network.RULES, *checkpoint.RULES, *fit.RULES, *trainer.RULES,
        *encoder.RULES, *encoder.REPO_RULES,
        *archive.RULES, *privacy.RULES, *privacy.CHECKPOINT_RULES, *release.RULES,
    ]  # fmt: skip
    return sorted(rules, key=lambda rule: rule.code)


def documents() -> list[Kind]:
    """Return what can be wrong with documents and datasets, sorted by code; no rule of ours stands behind it."""
    from registry import (
        changes,
        classification_dataset,
        dataset_findings,
        labels,
        pretraining_collection,
        schemas,
        smoke,
    )
    from registry.checks import remote

    kinds = [Kind(code, "error", summary) for code, summary in schemas.KINDS.items()]
    kinds += [Kind(code, level, summary) for code, (level, summary) in labels.KINDS.items()]
    kinds += [Kind(code, kind.level, kind.summary) for code, kind in dataset_findings.KINDS.items()]
    for module in (classification_dataset, pretraining_collection):
        kinds += [Kind(code, kind.level, kind.summary) for code, kind in module.KINDS.items()]
    kinds += [Kind(code, "note", summary) for code, summary in remote.KINDS.items()]
    kinds += [Kind(code, level, summary) for code, (level, summary) in smoke.KINDS.items()]
    kinds += [Kind(code, kind.level, kind.summary) for code, kind in changes.KINDS.items()]
    return sorted(kinds)


def every_kind() -> list[Kind]:
    """Return every kind of finding that `check` can make, sorted by code."""
    return sorted([*(Kind(rule.code, rule.level, rule.summary) for rule in all_rules()), *documents()])


def page() -> str:
    """Return docs/rules.md."""
    return PAGE.format(rules=_rows(all_rules()), documents=_rows(documents()))


def _rows(kinds: Iterable[Rule[Any] | Kind]) -> str:
    return "\n".join(f"| {kind.code} | {kind.level} | {kind.summary.replace('|', '/')} |" for kind in kinds)


PAGE = """\
# Rules of `mreg check`

`mreg check [TARGET]` reports everything that is wrong with a repo, a dataset, a run or an archive. An error breaks the
model for its users, or tells what must not be told; it makes the exit status 1 and stops `mreg release`. Nothing that
is checked is executed, and torch is not needed. This page is written by `python docs/generate.py`.

| code | level | what should be |
|---|---|---|
{rules}

Of documents and datasets these things are told (`mreg data verify` tells those that begin with DATA and CLASS):

| code | level | what is wrong |
|---|---|---|
{documents}

A new rule is a function in `registry/checks/`, a line in its module's `RULES`, and a bad example in a folder
`tests/data/checks/CODE-what-fails`, which is laid over a good target.
"""
