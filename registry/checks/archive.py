"""Rules on a release archive: its layout as SCT's installer sees it, its name, and what should not be in it."""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from registry import checkpoints, margins, names, survey
from registry.checks import model, privacy
from registry.checks.model_files import CHECKPOINTS, ModelFiles
from registry.checks.rules import read_object, rule
from registry.errors import IntegrityError, MregError
from registry.manifest import MANIFEST_NAME, Manifest
from registry.manifest import read as read_manifest
from registry.tree import ZipTree
from registry.unpack import TRAINER, TRAINERS, safe_members, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.findings import Finding
    from registry.weights import Probe

Draft = tuple[str, str, str]
LARGEST_ASSET = (1 << 31) - 1  # bytes, GitHub's limit
UNSAFE = "do not unpack it; tell the people who published it"
STRAY = "leave it out; mreg package takes the model's files only"
AGAIN = "fetch it again, or mreg package again"


@dataclass
class Archive:
    """A zip and where SCT finds the model in it."""

    path: Path
    tree: ZipTree
    facts: survey.Survey = field(default_factory=survey.Survey)  # what its bytes say

    @cached_property
    def wrapper(self) -> str:
        """Return the one top folder that SCT strips (with a slash), "" where it strips none.

        SCT strips a single top entry (`__MACOSX` does not count) that is a folder and has no nnUNetTrainer in its name.
        """
        paths = [info.filename for info in self.tree.zip.infolist()]
        top = {path.partition("/")[0] for path in paths} - {"__MACOSX", ""}
        if len(top) != 1:
            return ""
        (name,) = top
        is_folder = all("/" in path for path in paths if path.partition("/")[0] == name)
        return f"{name}/" if is_folder and not any(trainer in name for trainer in TRAINERS) else ""

    @cached_property
    def trainers(self) -> dict[str, bool]:
        """Return each name at SCT's root that starts with nnUNetTrainer, and whether it is a folder."""
        found: dict[str, bool] = {}
        for info in self.tree.zip.infolist():
            if info.filename.startswith(self.wrapper):
                name, slash, _ = info.filename.removeprefix(self.wrapper).partition("/")
                if name.startswith(TRAINERS):
                    found[name] = found.get(name, False) or bool(slash)
        return found

    @cached_property
    def model(self) -> ModelFiles | None:
        """Return the trainer folder, None where SCT finds none or several."""
        folders = [name for name, is_folder in self.trainers.items() if is_folder]
        if len(self.trainers) != 1 or not folders:
            return None
        prefix, entries = f"{self.wrapper}{folders[0]}/", tuple(self.tree.names())
        return ModelFiles(self.tree, prefix, folders[0], released=True, entries=entries)

    @cached_property
    def manifest(self) -> Manifest | MregError | None:
        """Return the manifest beside the archive, or why it cannot be read; None where there is none."""
        path = self.path.parent / MANIFEST_NAME
        try:
            return read_manifest(path) if path.is_file() else None
        except MregError as error:
            return error

    def read(self, folder: Path) -> None:
        """Read the whole archive, once; checkpoints that are compressed are copied to `folder` on the way."""
        found = self.model
        paths = [found.at(path) for path in found.files if path.endswith(CHECKPOINTS)] if found else []
        probes: dict[str, list[Probe]] = {}
        packed: dict[str, Path] = {}
        for path in paths:
            if not self.tree.is_stored(path):
                packed[path] = folder / str(len(packed))
                continue
            with suppress(MregError), self.tree.open(path) as file:  # CKPT001 says what is wrong with it
                probes[path] = checkpoints.probes(file)
        with ExitStack() as stack:
            copies = {path: stack.enter_context(copy.open("wb")) for path, copy in packed.items()}
            infos, digests = self.tree.zip.infolist(), self.manifest is not None
            self.facts = survey.survey(self.tree.file, infos, probes, digests=digests, copies=copies)
        for path, copy in packed.items():
            if not self.facts.members[path].damage:
                self.tree.use_copy(path, copy)
        if found is not None:
            found.weights.update(self.facts.weights)
            entry = self.manifest.model(self.path.name) if isinstance(self.manifest, Manifest) else None
            found.entry = entry


@rule("ARCHIVE001")
def one_trainer_folder(archive: Archive) -> Iterator[Draft]:
    """SCT finds exactly one nnUNetTrainer… folder, at the root or in a single top folder."""
    if archive.model is None:
        what = (
            ", ".join(sorted(archive.trainers))
            or f"none{f' in {archive.wrapper}' if archive.wrapper else ' at the root'}"
        )
        yield archive.wrapper, f"SCT wants one folder {TRAINER}…, it finds: {what}", "mreg package builds the layout"


@rule("ARCHIVE002")
def nothing_is_taken_for_monai(archive: Archive) -> Iterator[Draft]:
    """No .ckpt file is anywhere: SCT would take the model for MONAI's."""
    for path in archive.tree.files():
        if path.endswith(".ckpt"):
            yield path, "SCT takes an archive with a .ckpt for a MONAI model and crashes", "remove it"


@rule("ARCHIVE003")
def members_are_safe(archive: Archive) -> Iterator[Draft]:
    """No member leaves the folder, is a link, hides another one, or grows without measure."""
    prefix = f"{archive.path}: "
    found = False
    for info in archive.tree.zip.infolist():
        try:
            safe_name(info, archive.path)
        except IntegrityError as error:
            found = True
            yield info.orig_filename, error.message.removeprefix(prefix), UNSAFE
    if not found:  # what can be said of all members together only
        try:
            list(safe_members(archive.tree.zip, archive.path))
        except IntegrityError as error:
            yield "", error.message.removeprefix(prefix), UNSAFE


@rule("ARCHIVE004", "warning")
def no_stray_files(archive: Archive) -> Iterator[Draft]:
    """No files of the operating system or of unfinished work."""
    for path in archive.tree.files():
        parts = path.split("/")
        if "__MACOSX" in parts or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini"):
            yield path, "a file of the operating system", STRAY
        elif parts[-1].endswith((".pkl", ".pickle", ".joblib", ".npz", ".nii", ".nii.gz")):
            yield path, "no program that runs the model reads it", STRAY


@rule("ARCHIVE005")
def name_survives(archive: Archive) -> Iterator[Draft]:
    """The file's name ends in .zip and has only characters that GitHub keeps."""
    name = archive.path.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.zip", name):
        yield "", f"{name}: GitHub would change the name, or SCT not unpack it", "letters, digits, . _ - and .zip"


@rule("ARCHIVE006", "warning")
def name_says_which_release(archive: Archive) -> Iterator[Draft]:
    """The file's name ends in the release's tag, which is a date or a version."""
    name = archive.path.name
    found = re.search(r"[-_](r\d+\w*|v\d[\w.]*)\.zip$", name)
    if found is None:
        yield "", f"{name} does not say which release it is", "<repo>[-<variant>]-rYYYYMMDD.zip"
    elif found[1].startswith("r") and (code := names.check_tag(found[1])):
        yield "", f"{found[1]}: {names.EXPLANATIONS[code]}", "<repo>[-<variant>]-rYYYYMMDD.zip"


@rule("ARCHIVE007")
def fits_github(archive: Archive) -> Iterator[Draft]:
    """The archive is small enough for a GitHub asset."""
    size = archive.path.stat().st_size
    if size > LARGEST_ASSET:
        yield "", f"{size} bytes, GitHub takes {LARGEST_ASSET}", "mreg package --half, or --per-fold"


@rule("MANIFEST001")
def bytes_are_the_manifests(archive: Archive) -> Iterator[Draft]:
    """The archive and its members are those of the manifest beside it."""
    manifest = archive.manifest
    if isinstance(manifest, MregError):
        raise manifest
    if manifest is None:
        return
    entry = manifest.model(archive.path.name)
    if entry is None:
        yield MANIFEST_NAME, f"does not name {archive.path.name}", "keep an archive and its manifest together"
        return
    if archive.facts.sha256 == manifest.sha256_of(archive.path.name):
        return
    yield "", "other bytes than its manifest says", AGAIN
    wanted = {member.path: member.sha256 for member in entry.members}
    there = set(archive.tree.files())
    for name in sorted(there | set(wanted)):
        if name not in there:
            yield name, "the manifest names it, the archive does not have it", AGAIN
        elif name not in wanted:
            yield name, "the manifest does not name it", AGAIN
        elif archive.facts.members[name].sha256 != wanted[name]:
            yield name, "other bytes than the manifest says", AGAIN


@rule("ARCHIVE008", "warning")
def crop_metadata_is_found(archive: Archive) -> Iterator[Draft]:
    """crop_metadata.json lies beside the trainer folder and has all six paddings."""
    for path in archive.tree.files():
        if path.rpartition("/")[2] != margins.FILE:
            continue
        if path != f"{archive.wrapper}{margins.FILE}":
            yield path, "SCT looks beside the trainer folder and does not find it", "move it beside the trainer folder"
        document = read_object(archive.tree, path)
        for wrong in margins.problems(document):
            yield path, wrong, "all six paddings, in mm"


@rule("ARCHIVE009")
def members_are_whole(archive: Archive) -> Iterator[Draft]:
    """Every member can be read to its end and has the checksum that the archive names."""
    for path in archive.tree.files():
        if damage := archive.facts.members[path].damage:
            yield path, damage, AGAIN


@rule("ARCHIVE010")
def nothing_is_taken_for_ivadomed(archive: Archive) -> Iterator[Draft]:
    """No NAME.pt or NAME.onnx lies with NAME.json at SCT's root: SCT would take the model for ivadomed's."""
    for path in archive.tree.files():
        stem, _, ending = path.rpartition(".")
        top = path.startswith(archive.wrapper) and "/" not in path.removeprefix(archive.wrapper)
        if top and ending in ("pt", "onnx") and archive.tree.exists(f"{stem}.json"):
            yield path, "SCT takes it for a model of ivadomed", STRAY


RULES = [
    one_trainer_folder, nothing_is_taken_for_monai, members_are_safe, no_stray_files, name_survives,
    name_says_which_release, fits_github, crop_metadata_is_found, members_are_whole, nothing_is_taken_for_ivadomed,
    bytes_are_the_manifests,
]  # fmt: skip


def findings(path: Path) -> Iterator[Finding]:
    """Yield all findings on an archive."""
    with ZipTree(path) as tree, tempfile.TemporaryDirectory(prefix="mreg-check-") as folder:
        archive = Archive(path, tree)
        archive.read(Path(folder))
        for entry in RULES:
            yield from entry.run(archive)
        if archive.model is not None:
            yield from model.findings(archive.model)
        yield from privacy.findings(tree)
