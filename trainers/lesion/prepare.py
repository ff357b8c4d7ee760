"""From cases to what the net trains on, each step once.

    CACHE/cases-KEY/CASE.npz CASE.json        cut out, not standardised; the sidecar comes last
    CACHE/cases-KEY/fold_0-KEY/CASE.b2nd …    standardised by landmarks of this fold's training cases

The key of the first folder holds the geometry, the labels and where cords come from, that of the second one the
training cases and the scheme.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.cases import each_case
from trainers.core.files import atomic_path, read_json, write_json
from trainers.data import store
from trainers.lesion.chain import Place, find_line, prepare, read_lesions, sha256
from trainers.lesion.intensity import PUBLISHED, Standard, Tissue

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.core.progress import Progress
    from trainers.lesion.config import LesionSettings
    from trainers.lesion.index import Case

MOST_PLACES = 10_000  # lesion voxels of a case that patches are drawn around
LESION = 1  # in the store
TOOLS = ("mreg", "numpy", "scipy", "nibabel")


@dataclass(frozen=True, eq=False)
class Cut:
    """A case as it lies in the cache."""

    image: NDArray[np.float32]  # (x, y, z)
    lesion: NDArray[np.bool_]
    tissue: Tissue
    place: Place


class CutCases:
    """The cases of a cache, cut out and not standardised."""

    def __init__(self, cache: Path, cases: list[Case], settings: LesionSettings) -> None:
        sources = (settings.centreline, settings.cord_model, settings.cord_label, settings.lesion_label)
        key = _key(settings.geometry.model_dump(mode="json"), *sources)
        self.cases = {case.name: case for case in cases}
        self.folder = cache / f"cases-{key}"
        self._settings = settings

    def prepare(self, threads: int, progress: Progress) -> None:
        """Cut out what is missing; all cases that cannot be used are told together."""
        missing = [name for name in self.cases if not (self.folder / f"{name}.json").is_file()]
        if missing:
            with progress.stage("cut out the cords"), progress.bar("cut", len(missing)) as advance:
                lost = each_case(self._cut, missing, threads, advance)
            for name, text in sorted(lost.items()):
                if text:
                    progress.say(f"warning: {name}: lesions outside of the window: {text}")

    def read(self, name: str) -> Cut:
        """Read a case."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            tissue = Tissue(
                points=file["points"], mean=float(file["mean"]), std=float(file["std"]), sample=file["sample"]
            )
            image, lesion = file["image"], file["lesion"]
        return Cut(image, lesion, tissue, self.place(name))

    def place(self, name: str) -> Place:
        """Return where a case lies in its image."""
        return Place.from_json(read_json(self.folder / f"{name}.json"))

    def has_lesion(self, name: str) -> bool:
        """Whether the case has a lesion voxel."""
        return bool(read_json(self.folder / f"{name}.json")["lesion"]["voxels"])

    def _cut(self, name: str) -> str:
        """Cut out one case; return what of its lesions is lost, "" for nothing."""
        case, settings = self.cases[name], self._settings
        prepared = prepare(case, settings.geometry, find_line(case, settings.geometry, settings.centreline))
        truth = read_lesions(case, prepared.place.native)
        lesion, loss = prepared.place.cut_mask(truth)
        tissue = prepared.tissue
        with atomic_path(self.folder / f"{name}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(
                stream, image=prepared.image, lesion=lesion, points=tissue.points, mean=tissue.mean, std=tissue.std,
                sample=tissue.sample,
            )  # fmt: skip
        facts = {
            "name": case.lesion.name if case.lesion else "",
            "sha256": sha256(case.lesion) if case.lesion else "",
            "voxels": int(truth.sum()),
            "ml": float(truth.sum() * prepared.place.native.voxel_mm3 / 1000),
            "voxels_cut": int(lesion.sum()),
            "ml_cut": float(lesion.sum() * prepared.place.work.voxel_mm3 / 1000),
            "lost": {"voxels": loss.voxels, "mm": loss.mm},
        }
        versions = {tool: metadata.version(tool) for tool in TOOLS}
        sidecar = {
            "case": name, "subject": case.subject, "session": case.session, "contrast": case.contrast,
            **prepared.sidecar(), "percentiles": tissue.points.tolist(), "lesion": facts, "versions": versions,
        }  # fmt: skip
        write_json(self.folder / f"{name}.json", sidecar)
        return str(loss) if loss.voxels else ""


def fit(cut: CutCases, training: list[str], settings: LesionSettings) -> Standard:
    """Return the standardisation: fitted on the training cases, or one that needs no fitting."""
    if settings.intensity == "zscore":
        return Standard(scheme="zscore")
    if settings.intensity in PUBLISHED:
        return Standard.published(settings.intensity)
    return Standard.fit((cut.cases[name].contrast, cut.read(name).tissue) for name in sorted(training))


def fill_store(
    cut: CutCases, names: list[str], standard: Standard, settings: LesionSettings, threads: int, progress: Progress
) -> Path:
    """Write the standardised training cases as compressed arrays (1, Z, Y, X); return their folder."""
    folder = cut.folder / f"standard-{_key(standard.as_json(), settings.patch)}"
    folder.mkdir(exist_ok=True)
    missing = [name for name in sorted(names) if not (folder / f"{name}.pkl").is_file()]

    def one(name: str) -> None:
        case = cut.read(name)
        image = standard.apply(case.image, case.tissue, cut.cases[name].contrast)
        for ending, volume in ((".b2nd", image), ("_seg.b2nd", case.lesion.astype(np.int16))):
            partial = folder / f".{name}.part{ending}"
            partial.unlink(missing_ok=True)
            store.write_volume(partial, np.ascontiguousarray(volume.transpose(2, 1, 0))[None], settings.patch)
            partial.replace(folder / f"{name}{ending}")
        voxels = np.argwhere(case.lesion.transpose(2, 1, 0)[None])
        if len(voxels) > MOST_PLACES:
            rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
            voxels = voxels[np.sort(rng.choice(len(voxels), MOST_PLACES, replace=False))]
        with atomic_path(folder / f"{name}.pkl") as temporary:
            temporary.write_bytes(pickle.dumps({"class_locations": {LESION: voxels}}))

    if missing:
        with progress.stage("standardise"), progress.bar("standardise", len(missing)) as advance:
            each_case(one, missing, threads, advance)
    return folder


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
