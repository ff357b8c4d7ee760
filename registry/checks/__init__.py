"""Rules, one module a subject: small functions that yield findings, all listed in their module's RULES."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import MregError, NotFoundError
from registry.findings import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.rules import Rule


def check(target: str | Path) -> Report:
    """Return everything that is wrong with a repo, dataset, run or archive; nothing of it is executed."""
    path = Path(target)
    if not path.exists():
        raise NotFoundError(f"{target}: no such file or folder", hint="name a repo, dataset, run or archive")
    if path.is_dir() and (path / "imagesTr").is_dir():
        from registry.dataset_verify import verify

        return verify(path)
    return Report(target=str(target), findings=tuple(_findings(path.resolve())))


def _findings(path: Path) -> Iterator[Finding]:
    """Find out what the path is, and yield what its rules find."""
    if path.is_file():
        from registry.checks import archive

        yield from archive.findings(path)
    elif (path / "model.toml").is_file():
        from registry.checks import repo

        yield from repo.findings(path)
    elif (path / "plans.json").is_file():
        from registry.checks import model
        from registry.runs import is_run, read_run
        from registry.tree import DiskTree

        folder = read_run(path).trainer_folder if is_run(path) else path.name
        yield from model.findings(model.ModelFiles(DiskTree(path), "", folder, released=not is_run(path)))
    elif (path / "dataset.json").is_file():
        yield Finding(code="DATA001", message="no folder imagesTr", path="imagesTr", hint="is it a dataset?")
    else:
        raise MregError(
            f"{path}: neither a repo (model.toml), a dataset (dataset.json, imagesTr), a run (plans.json) nor a zip",
            hint="mreg check path/to/model_seg_sc_t2",
        )


def all_rules() -> list[Rule[Any]]:
    """Return every rule of the repo, run and archive, sorted by code."""
    from registry.checks import archive, checkpoint, model, privacy, repo, trainer

    rules: list[Rule[Any]] = [
        *repo.RULES, *model.RULES, *checkpoint.RULES, *trainer.RULES, *archive.RULES, *privacy.RULES,
    ]  # fmt: skip
    return sorted(rules, key=lambda rule: rule.code)
