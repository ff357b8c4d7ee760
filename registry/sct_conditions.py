"""What the Spinal Cord Toolbox (SCT) demands of a release, as a table of the rules of `mreg check`.

SCT unpacks an archive, looks for nnU-Net's files in it and reads dataset.json; it verifies little, and what it does not
expect stops a user's command or spoils the masks. Every condition names the codes of the rules that judge it: there is
no second implementation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from registry.errors import MregError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry.findings import Finding

State = Literal["pass", "fail", "not read", "not asked"]
NOT_READ = "REMOTE001"
CROP_RULE = "ARCHIVE008"
REACHABLE = "a public address, which wants no token"
FILE_ENDING = "file_ending"  # nnU-Net's own commands want the key, SCT does not
IN_TRAINER = re.compile(r"^([^/]+/)?nnUNetTrainer[^/]*/")
MOST_TOLD = 3  # reasons of one condition


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that SCT relies on."""

    title: str
    codes: tuple[str, ...]
    weights: bool = False  # whether the checkpoints have to be read
    file: str = ""  # the only file that a finding may be about

    def concerns(self, finding: Finding) -> bool:
        """Whether a finding says that this is not so."""
        if finding.code.startswith("SCHEMA") and FILE_ENDING in finding.message:
            return False
        return finding.code in self.codes and finding.path.endswith(self.file)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a release meets a condition."""

    title: str
    state: State
    codes: tuple[str, ...] = ()  # of the rules that say why not
    reasons: tuple[str, ...] = ()


SCHEMAS = ("SCHEMA001", "SCHEMA002", "SCHEMA003", "SCHEMA004")
LABELS = tuple(f"LABEL{number:03d}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17))
CONDITIONS = (
    Condition(title="the archive is whole, and SCT unpacks a file of that name",
              codes=("ARCHIVE003", "ARCHIVE005", "ARCHIVE009", "RELEASE011")),
    Condition(title="the bytes under the address are those that were released",
              codes=("MANIFEST001", "RELEASE003")),
    Condition(title="one trainer folder, where SCT looks for it", codes=("ARCHIVE001",)),
    Condition(title="SCT takes the model for nnU-Net's", codes=("ARCHIVE002", "ARCHIVE010")),
    Condition(title="dataset.json, plans.json and a fold are there", codes=("MODEL001",)),
    Condition(title="folds are fold_all alone, or fold_N", codes=("MODEL002",)),
    Condition(title="every fold has the same checkpoint file", codes=("MODEL003",)),
    Condition(title="folder, plans and checkpoints name one trainer and configuration",
              codes=("MODEL005",), weights=True),
    Condition(title="the checkpoints load, and run nothing while they do",
              codes=("CKPT001", "CKPT002", "CKPT004"), weights=True),
    Condition(title="SCT's nnU-Net has the trainer, or trainer_class.py brings it",
              codes=("TRAINER001", "TRAINER002", "TRAINER003", "TRAINER005", "TRAINER006"), weights=True),
    Condition(title="trainer_class.py imports only what SCT brings", codes=("TRAINER004",)),
    Condition(title="SCT's nnU-Net has the network and the preprocessing",
              codes=("NET001", "NET002", "NET005", *SCHEMAS), file="plans.json"),
    Condition(title="the weights fit the network of the plans", codes=("CKPT008",), weights=True),
    Condition(title="the configuration is no cascade", codes=("NET003",)),
    Condition(title="one input channel", codes=("MODEL007",)),
    Condition(title="labels and channels have a meaning",
              codes=(*LABELS, "CHANNEL001", *SCHEMAS), file="dataset.json"),
    Condition(title="labels make good names of files", codes=("LABEL010", "LABEL012", "LABEL015", "LABEL018")),
    Condition(title="image_orientation is one of SCT's 48 codes, and the one of the training",
              codes=("ORIENT001", "ORIENT003")),
    Condition(title="one or two files for an image, which sct_deepseg -qc can show", codes=("MODEL008",)),
)  # fmt: skip
# Errors of an archive or release that SCT does not notice: they matter to other readers.
NOT_SCTS = {
    "ARCHIVE007": "GitHub's limit: such an asset cannot be published",
    "CKPT003": "SCT's torch loads what weights_only=True refuses",
    "CKPT006": "privacy",
    "JSON001": "SCT reads two of the files, of which MODEL001 tells",
    "JSON003": "SCT takes the last value, as everybody does",
    "PRIVACY001": "privacy", "PRIVACY005": "privacy", "PRIVACY006": "privacy", "PRIVACY007": "privacy",
    "PRIVACY010": "privacy",
    "RELEASE001": "SCT does not read tags",
    "RELEASE008": "GitHub's limit",
}  # fmt: skip


def judge(findings: Iterable[Finding]) -> list[Verdict]:
    """Return a verdict on each condition, from everything that `mreg check` found on a release or archive.

    A condition on weights that were left out in a partial reading is neither met nor broken: "not read".
    """
    found = list(findings)
    partial = any(finding.code == NOT_READ for finding in found)
    return [_verdict(condition, found, partial=partial) for condition in CONDITIONS]


def _verdict(condition: Condition, findings: list[Finding], *, partial: bool) -> Verdict:
    against = [finding for finding in findings if condition.concerns(finding)]
    if not against:
        return Verdict(title=condition.title, state="not read" if partial and condition.weights else "pass")
    return Verdict(
        title=condition.title,
        state="fail",
        codes=tuple(sorted({finding.code for finding in against})),
        reasons=_told(against[:MOST_TOLD]),
    )


def _told(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return what findings say, with paths as seen from the trainer folder."""
    paths = [(IN_TRAINER.sub("", finding.path), finding.message) for finding in findings]
    return tuple(f"{path}: {message}" if path else message for path, message in paths)


def reachable(urls: Iterable[str]) -> Verdict:
    """Ask for one byte of every archive, as somebody whom the server does not know."""
    from registry import web

    reasons = []
    for url in urls:
        if urlsplit(url).scheme == "file":
            return Verdict(title=REACHABLE, state="not asked", reasons=("a folder registry has no web address",))
        try:
            web.Ranges(url).close()
        except MregError as error:
            reasons.append(error.message)
    return Verdict(title=REACHABLE, state="fail" if reasons else "pass", reasons=tuple(reasons))


def in_one_archive(trainer_folders: Sequence[str], *, merged: bool) -> Verdict:
    """Judge the trainer folders of a release's archives: SCT merges several into one model where `merged`."""
    if len(trainer_folders) == 1:
        return Verdict(title="all folds are in one archive", state="pass")
    if not merged:
        reason = f"{len(trainer_folders)} archives: SCT takes each for a model of its own"
        return Verdict(title="all folds are in one archive", state="fail", reasons=(reason,))
    title, different = "the archives of the folds have one trainer folder", sorted(set(trainer_folders))
    if len(different) == 1:
        return Verdict(title=title, state="pass")
    return Verdict(title=title, state="fail", reasons=(", ".join(different),))


def cropped(without: Iterable[str], findings: Iterable[Finding], *, wanted: bool) -> Verdict:
    """Judge what SCT needs to crop images around the cord first; `without` are archives that lack it."""
    title = "crop_metadata.json beside the trainer folder, with six paddings"
    if not wanted:
        return Verdict(title=title, state="not asked", reasons=("cropped_image is false",))
    found = tuple(f"{finding.path}: {finding.message}" for finding in findings if finding.code == CROP_RULE)
    reasons = found or tuple(f"none in {asset}" for asset in without)
    return Verdict(title=title, state="fail" if reasons else "pass", codes=(CROP_RULE,) * bool(found), reasons=reasons)
