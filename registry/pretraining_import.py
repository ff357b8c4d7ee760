"""`mreg data import --pretraining`: images without labels → a collection with pretrain_data.json."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry import output
from registry.bids import find_images, find_masks, has_tail
from registry.collection import ENDINGS, stem, texts
from registry.dataset import listed, making, require_free_number
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import alone, json_text, read_json, write_json
from registry.volumes import WORKERS, is_annex_pointer
from trainers.pretraining.collection import FILE, NO_SESSION, RAW

if TYPE_CHECKING:
    from pathlib import Path

MASKS = {"anatomy": "anatomy_mask", "anonymisation": "anonymization_mask"}
AXES = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image of the source."""

    path: Path
    subject: str
    session: str
    modality: str
    masks: dict[str, Path] = field(default_factory=dict)  # key of associated_masks → file


def import_collection(
    source: Path,
    destination: Path,
    *,
    number: int,
    name: str,
    contrasts: tuple[str, ...] = (),
    masks: dict[str, str] | None = None,
    variable: str = "",
) -> Path:
    """Import the images of a BIDS tree or of an nnU-Net raw dataset; return DESTINATION/DatasetNNN_Name.

    `contrasts` keeps images whose names end so, `masks` maps anatomy and anonymisation to tails of masks. Images are
    copied; with `variable` they stay where they are, and paths begin with that variable. Images that are not 3D are
    left out with a warning. A second call with the same inputs changes nothing.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise MregError(f"--name {name!r}: a collection's name is letters, digits, - and _", hint="--name SpineSSL")
    if not source.is_dir():
        raise NotFoundError(f"{source}: no such folder", hint="name a BIDS tree or an nnU-Net raw dataset")
    source = source.resolve()
    nnunet = (source / "dataset.json").is_file()
    if nnunet and masks:
        raise MregError("--label finds masks in BIDS trees only", hint="leave --label out")
    images = _of_nnunet(source, contrasts) if nnunet else _of_bids(source, contrasts, masks or {})
    images = _only_volumes(images)
    if not images:
        raise NotFoundError(f"{source}: no 3D image{' of ' + ', '.join(contrasts) if contrasts else ''}")
    title = f"Dataset{number:03d}_{name}"
    copies = {} if variable else _copies(images)
    document = _describe(images, title, source, number, variable, copies)
    target = destination / title
    with alone(destination):
        if target.exists():
            _require_same(target, document)
            output.say(f"{target}: already imported")
            return target
        require_free_number(destination, number)
        _write(target, document, copies)
    subjects = len({image.subject for image in images})
    output.say(f"{target}: {len(images)} images of {subjects} subjects")
    if variable:
        output.say(f"set {variable}={source} wherever it is used")
    return target


def _of_bids(root: Path, contrasts: tuple[str, ...], masks: dict[str, str]) -> list[Found]:
    images, labels = find_images(root), find_masks(root)
    if unknown := sorted(set(masks) - set(MASKS)):
        raise MregError(f"--label {unknown[0]}: of pre-training there are {' and '.join(MASKS)}")
    found = []
    for name, path in images.items():
        if contrasts and not any(has_tail(name, contrast) for contrast in contrasts):
            continue
        parts = path.relative_to(root).parts
        session = next((part for part in parts[1:-1] if part.startswith("ses-")), NO_SESSION)
        tails = labels.get(name, {})
        found.append(
            Found(
                path=path,
                subject=parts[0],
                session=session,
                modality=name.rpartition("_")[2],
                masks={MASKS[kind]: tails[tail] for kind, tail in masks.items() if tail in tails},
            )
        )
    return found


def _of_nnunet(root: Path, contrasts: tuple[str, ...]) -> list[Found]:
    """Return the training images; test images stay unseen."""
    document = read_json(root / "dataset.json")
    channels = document.get("channel_names") if isinstance(document, dict) else None
    if not isinstance(channels, dict):
        raise MregError(f"{root / 'dataset.json'}: no channel_names", hint="an nnU-Net v2 raw dataset has them")
    found = []
    for path in sorted((root / "imagesTr").glob("[!.]*")):
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        modality = channels.get(str(int(numbered[2]))) if numbered else None
        if not path.name.endswith(ENDINGS) or numbered is None or modality is None:
            output.warn(f"left out: {path}: not an image CASE_0000 of a channel in dataset.json")
        elif not contrasts or modality in contrasts:
            subject = re.match(r"sub-[A-Za-z0-9]+", numbered[1])
            found.append(
                Found(
                    path=path,
                    subject=subject[0] if subject else numbered[1],
                    session=numbered[1] if subject else NO_SESSION,
                    modality=str(modality),
                )
            )
    return found


def _only_volumes(images: list[Found]) -> list[Found]:
    """Leave out what is not one 3D volume, as the headers say; name files that were never fetched."""
    import nibabel as nib

    files = [path for image in images for path in (image.path, *image.masks.values())]
    if pointers := [str(path) for path in files if is_annex_pointer(path)]:
        raise IntegrityError(
            f"git-annex has not fetched {len(pointers)} of {len(files)} files:\n{listed(pointers)}",
            hint="in that clone: git annex get .",
        )

    def judge(image: Found) -> str:
        try:
            shape = nib.load(image.path).shape
        except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
            return f"cannot be read: {error}"
        return "" if len(shape) == AXES else f"{len(shape)} axes: a series is no volume"

    kept = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for image, why in zip(images, pool.map(judge, images), strict=True):
            if why:
                output.warn(f"left out: {image.path}: {why}")
            else:
                kept.append(image)
    return kept


def _copies(images: list[Found]) -> dict[Path, str]:
    """Return where in the collection each file goes."""
    found: dict[Path, str] = {}
    for image in images:
        for path in (image.path, *image.masks.values()):
            found[path] = f"images/{image.subject}/{image.session}/{path.name}"
    if len(set(found.values())) != len(found):
        twice = next(place for place in found.values() if list(found.values()).count(place) > 1)
        raise ConflictError(f"{twice}: two files of one session have this name", hint="rename one of them")
    return found


def _describe(
    images: list[Found], title: str, source: Path, number: int, variable: str, copies: dict[Path, str]
) -> dict[str, Any]:
    def place(path: Path) -> str:
        return f"${variable}/{path.relative_to(source)}" if variable else f"${RAW}/{title}/{copies[path]}"

    subjects: dict[str, Any] = {}
    for image in images:
        subject = subjects.setdefault(
            image.subject, {"subject_id": image.subject, "subject_info": None, "sessions": {}}
        )
        session = subject["sessions"].setdefault(
            image.session, {"session_id": image.session, "session_info": None, "images": []}
        )
        masks = {key: place(image.masks[key]) if key in image.masks else None for key in MASKS.values()}
        session["images"].append(
            {
                "name": image.path.name,
                "image_path": place(image.path),
                "modality": image.modality,
                "image_info": None,
                "associated_masks": masks if image.masks else None,
            }
        )
    about = source / "dataset_description.json"
    info = texts(read_json(about), {"Name": "description", "License": "licence"}) if about.is_file() else {}
    key = re.sub(r"[^A-Za-z0-9.-]+", "-", source.name) or "source"
    dataset = {"dataset_index": key, "name": key, "dataset_info": info or None, "subjects": subjects}
    return {"collection_index": number, "collection_name": title, "datasets": {key: dataset}}


def _write(target: Path, document: dict[str, Any], copies: dict[Path, str]) -> None:
    """Write the collection, whole or not at all."""
    with making(target) as folder, output.count_progress(f"copy {len(copies)} files", len(copies)) as advance:
        for path, place in copies.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)
            advance()
        write_json(folder / FILE, document)


def _require_same(target: Path, document: dict[str, Any]) -> None:
    there = read_json(target / FILE) if (target / FILE).is_file() else None
    if json_text(there) != json_text(document):
        raise ConflictError(
            f"{target}: exists with other content", hint="choose another --dataset-id or --name, or move it away"
        )
