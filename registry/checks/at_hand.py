"""Rules that compare a model with its training data, where those are at hand: of images the headers only are read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry import orientation
from registry.checks.rules import Draft, line_of, read_object, rule
from registry.errors import MregError
from registry.model_toml import Repo, find_repo
from registry.tree import DiskTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.checks.repo import RepoFiles
    from registry.checks.run import RunFiles

MOST = 200  # images whose headers are read
SHARED = ("channel_names", "labels", "regions_class_order", "image_orientation", "file_ending")


def orientations(dataset: Path) -> Counter[str]:
    """Return how many training images have which orientation, in SCT's letters; what cannot be read does not count."""
    paths = sorted((dataset / "imagesTr").glob("[!.]*.nii*"))[:MOST] if dataset.is_dir() else []
    if not paths:
        return Counter()
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    found: Counter[str] = Counter()
    for path in paths:
        try:
            affine: Any = nib.load(path).affine
        except (ImageFileError, OSError, EOFError, ValueError):
            continue
        found[orientation.of_affine(affine)] += 1
    return found


def _compared(code: object, dataset: Path) -> Iterator[tuple[str, str]]:
    """Say (message, hint) where the training images have another orientation than the code says."""
    found = orientations(dataset)
    if not orientation.is_valid(code) or not found or set(found) == {code}:
        return
    listed = ", ".join(f"{count} are {orientation.describe(name)}" for name, count in found.most_common())
    message = f"image_orientation is {orientation.describe(str(code))}; of the training images {listed}"
    if len(found) > 1:
        yield message, "import the images again, all in one orientation"
        return
    (actual,) = found
    mixed = " (it has nibabel's letters)" if orientation.to_nibabel(actual) == code else ""
    yield message + mixed, f'"image_orientation": "{actual}"'


@rule("ORIENT005")
def run_has_the_images_orientation(files: RunFiles) -> Iterator[Draft]:
    """A run's image_orientation is that of its training images, where they are at hand."""
    if isinstance(files.run, MregError):
        return
    place = files.run.config["dataset"].get("path")
    try:
        dataset = find_repo(files.path).root / str(place)
    except (MregError, ValueError):
        return
    written = (read_object(files.tree, "dataset.json") or {}).get("image_orientation")
    for message, hint in _compared(written, dataset) if place else ():
        yield "dataset.json", message, hint, line_of(files.tree, "dataset.json", "image_orientation")


@rule("ORIENT006")
def contract_has_the_images_orientation(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's image_orientation is that of its training images, where they are at hand."""
    dataset = _dataset(repo)
    written = (repo.dataset_json or {}).get("image_orientation")
    for message, hint in _compared(written, dataset) if dataset else ():
        yield "dataset.json", message, hint, line_of(repo.tree, "dataset.json", "image_orientation")


@rule("CONTRACT005")
def contract_is_the_datas(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json has the labels, channels and orientation of its dataset, where that is at hand."""
    dataset = _dataset(repo)
    if dataset is None or repo.dataset_json is None:
        return
    data = read_object(DiskTree(dataset), "dataset.json") or {}
    for key in SHARED if data else ():
        ours, theirs = repo.dataset_json.get(key), data.get(key)
        # the order of the labels carries meaning for regions
        if ours != theirs or (isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) != list(theirs)):
            message = f"{key} is {_shown(ours)}, and {_shown(theirs)} in {dataset.name}"
            hint = "training refuses this: mend one of them"
            yield "dataset.json", message, hint, line_of(repo.tree, "dataset.json", key)


RUN_RULES = [run_has_the_images_orientation]
REPO_RULES = [contract_has_the_images_orientation, contract_is_the_datas]


def _dataset(repo: RepoFiles) -> Path | None:
    """Return the folder of the repo's raw dataset, None where it is not on this machine."""
    if repo.root is None or isinstance(repo.toml, MregError):
        return None
    try:
        dataset = Repo(repo.root, repo.toml).dataset
    except (MregError, ValueError):
        return None
    return dataset if (dataset / "dataset.json").is_file() else None


def _shown(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= MOST else f"{text[:MOST]}…"
