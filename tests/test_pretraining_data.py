"""Collections for pre-training: what pretrain_data.json may say, and what becomes of its images."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from pydantic import ValidationError

from registry.schemas import validate
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.progress import Progress
from trainers.data.store import open_volume, write_volume
from trainers.pretraining.choice import Choice
from trainers.pretraining.collection import Collection, contradictions, items, portable, read_collection, resolve
from trainers.pretraining.images import ImageStore, patch_loader
from trainers.pretraining.method import Reading
from trainers.pretraining.plan import make_plans, spacing_of
from trainers.pretraining.prepare import Preparation, _split, prepare
from trainers.pretraining.preprocess import blocks_and_chunks

NAME = "Dataset530_SpineSSL"
CHANGES = {
    "good": lambda d: None,
    "a number for a session": lambda d: session(d).update(session_id=1),
    "no subjects": lambda d: dataset(d).update(subjects={}),
    "a key that nobody knows": lambda d: d.update(more=1),
    "a key of an image that nobody knows": lambda d: image(d).update(more=1),
    "no modality": lambda d: image(d).pop("modality"),
    "an empty modality": lambda d: image(d).update(modality=""),
    "a path of nowhere": lambda d: image(d).update(image_path="images/a.nii.gz"),
    "a name with a folder": lambda d: image(d).update(name="a/b.nii.gz"),
    "one mask left out": lambda d: image(d).update(associated_masks={"anatomy_mask": None}),
    "no masks": lambda d: image(d).update(associated_masks=None),
    "information that is a list": lambda d: image(d).update(image_info=[]),
    "a name that is no folder": lambda d: d.update(collection_name="Spine"),
    "a collection without a number": lambda d: d.pop("collection_index"),
    "true for a number": lambda d: d.update(collection_index=True),
    "a number below 0": lambda d: d.update(collection_index=-1),
    "a subject that is a number": lambda d: subject(d).update(subject_id=3),
    "images that are one image": lambda d: session(d).update(images=image(d)),
}


def dataset(document: dict) -> dict:
    return next(iter(document["datasets"].values()))


def subject(document: dict) -> dict:
    return next(iter(dataset(document)["subjects"].values()))


def session(document: dict) -> dict:
    return next(iter(subject(document)["sessions"].values()))


def image(document: dict) -> dict:
    return session(document)["images"][0]


@pytest.fixture
def real(test_data: Path) -> Path:
    return test_data / "nnssl_raw" / NAME


@pytest.fixture
def document(real: Path) -> dict:
    return read_json(real / "pretrain_data.json")


@pytest.fixture
def small(real: Path, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a collection of three subjects' smallest images that may be changed."""
    monkeypatch.delenv("nnssl_raw", raising=False)
    folder = tmp_path / "raw" / NAME
    kept = {"sub-errsm30", "sub-unf05", "sub-unf02"}
    for source in document["datasets"].values():
        source["subjects"] = {key: value for key, value in source["subjects"].items() if key in kept}
    document["datasets"] = {key: source for key, source in document["datasets"].items() if source["subjects"]}
    for item in items(Collection.model_validate(document), real.parent):
        for path in (item.path, *item.masks.values()):
            target = folder / path.relative_to(real)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    write_json(folder / "pretrain_data.json", document)
    return folder


def run(collection: Path, cache: Path, **how: object) -> tuple[object, str]:
    said = io.StringIO()
    return prepare(collection, cache, Preparation(threads=2, **how), Progress(said)), said.getvalue()


@pytest.mark.parametrize("change", CHANGES)
def test_the_schema_and_the_model_agree(change: str, document: dict) -> None:
    CHANGES[change](document)
    try:
        Collection.model_validate_json(json.dumps(document))
        accepted = True
    except ValidationError:
        accepted = False
    assert accepted is not any(f.level == "error" for f in validate("pretrain_data", document, "pretrain_data.json"))
    assert accepted is (change in {"good", "a number for a session", "a key that nobody knows", "no masks"})


def test_paths_are_made_portable_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnssl_raw", raising=False)
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "other") + "/")
    for path in ("$nnssl_raw/D/a.nii.gz", "$ELSEWHERE/b.nii.gz", "/c/d.nii.gz"):
        found = resolve(path, tmp_path / "raw")
        assert found.is_absolute()
        assert portable(found, {"nnssl_raw": tmp_path / "raw", "ELSEWHERE": tmp_path / "other"}) == path
    with pytest.raises(TrainingError, match="NOWHERE_AT_ALL is not set"):
        resolve("$NOWHERE_AT_ALL/a.nii.gz", tmp_path)
    monkeypatch.setenv("nnssl_raw", "/set")
    assert resolve("$nnssl_raw/a", tmp_path) == Path("/set/a")


def test_what_the_schema_cannot_see_is_told(document: dict) -> None:
    assert list(contradictions(Collection.model_validate(document), NAME)) == []
    bad = copy.deepcopy(document)
    dataset(bad)["dataset_index"] = "other"
    session(bad)["images"].append({**image(bad), "name": image(bad)["name"].replace(".nii.gz", ".nii")})
    told = list(contradictions(Collection.model_validate(bad), "Dataset531_Other"))
    for part in ("its folder 'Dataset531_Other'", "dataset_index 'other'", "has 2 images", "end in .nii, .nii.gz"):
        assert any(part in line for line in told), told


def test_a_document_that_is_not_readable_is_one_error(small: Path, document: dict) -> None:
    image(document)["image_pth"] = image(document).pop("image_path")
    write_json(small / "pretrain_data.json", document)
    with pytest.raises(TrainingError, match=r"pretrain_data\.json: datasets.*image_p"):
        read_collection(small / "pretrain_data.json")


@pytest.mark.parametrize(
    ("size", "block", "chunk"),
    [  # of the published storage, measured
        ((160, 160, 160), (16, 16, 16), (80, 64, 64)),
        ((182, 218, 182), (16, 16, 16), (80, 64, 64)),
        ((256, 256, 64), (8, 8, 64), (72, 64, 64)),
        ((20, 256, 256), (20, 16, 16), (20, 128, 128)),
        ((400, 320, 48), (16, 16, 16), (80, 80, 48)),
        ((160, 160, 12), (32, 16, 12), (160, 160, 12)),
        ((40, 40, 40), (16, 16, 16), (40, 40, 40)),
    ],
)
def test_blocks_and_chunks_are_nnssls(size, block, chunk) -> None:
    assert blocks_and_chunks((1, *size), 4) == ((1, *block), (1, *chunk))


def test_the_thickest_axis_comes_first_in_every_plan() -> None:
    plans = make_plans(NAME, [[1.0, 1.0, 3.0], [1.0, 2.0, 5.0], [0.5, 1.0, 4.0]], "LPI")
    assert (plans["transpose_forward"], plans["transpose_backward"]) == ([2, 0, 1], [1, 2, 0])
    assert plans["original_median_spacing_after_transp"] == [4.0, 1.0, 1.0]
    spacings = {key: value["spacing"] for key, value in plans["configurations"].items()}
    assert spacings == {"onemmiso": [1.0, 1.0, 1.0], "median": [4.0, 1.0, 1.0], "noresample": None}


def test_the_first_of_equally_thick_axes_comes_first() -> None:
    assert make_plans(NAME, [[1.0, 2.0, 2.0]], "LPI")["transpose_forward"] == [1, 0, 2]
    assert make_plans(NAME, [[1.0, 1.0, 1.0]], "LPI")["transpose_forward"] == [0, 1, 2]


def test_a_fingerprint_reads_headers_alone(small: Path, document: dict) -> None:
    for item in items(Collection.model_validate(document), small.parent):
        before = spacing_of(item.path, "LPI")
        with gzip.open(item.path) as stream:
            head = stream.read(352)
        item.path.write_bytes(gzip.compress(head))
        assert spacing_of(item.path, "LPI") == before


def test_one_subject_in_a_hundred_is_for_validation(tmp_path: Path) -> None:
    for subjects, wanted in ((3, 1), (8, 4), (11, 5), (600, 6), (200_000, 1000)):
        names = {f"collection__dataset__{number}" for number in range(subjects)}
        file = tmp_path / f"{subjects}.json"
        training, validation = _split(file, names, tmp_path)
        assert (len(validation), training | validation) == (wanted, names)
        assert _split(file, names, tmp_path) == (training, validation)


@pytest.mark.parametrize("configuration", ["onemmiso", "median", "noresample"])
def test_images_and_masks_are_those_of_the_steps_done_one_by_one(
    small: Path, tmp_path: Path, configuration: str
) -> None:
    found, _ = run(small, tmp_path / "cache", configuration=configuration)
    target = found.plans["configurations"][configuration]["spacing"]
    as_nnssl_finds_them(small, found.folder.parent, configuration)
    assert len(found.training) + len(found.validation) == len(list(found.folder.rglob("*.pkl"))) == 6
    for item in items(read_collection(small / "pretrain_data.json"), small.parent):
        place = found.folder / item.folder / item.stem
        original = nib.as_closest_canonical(nib.load(item.path))  # nibabel's RAS is SCT's LPI
        voxels, spacing = np.asarray(original.dataobj, np.float32).T, original.header.get_zooms()[2::-1]
        order = found.plans["transpose_forward"]
        voxels, spacing = voxels.transpose(order), [float(spacing[axis]) for axis in order]
        filled = voxels != 0
        edges = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        box = tuple(slice(edge[0], edge[-1] + 1) for edge in edges)
        crop = voxels[box]
        crop = (crop - crop.mean(dtype=np.float64)) / crop.std(dtype=np.float64)
        shape = crop.shape
        if target:
            shape = [round(old / new * size) for old, new, size in zip(spacing, target, crop.shape, strict=True)]
        wanted = resample_data_or_seg_to_shape(
            crop[None].astype(np.float32), shape, spacing, target or spacing, force_separate_z=None
        )
        image = open_volume(place.with_name(f"{place.name}.b2nd"))
        np.testing.assert_allclose(image[:], wanted, atol=1e-4)
        assert image.blocks == blocks_and_chunks(image.shape, 4)[0]
        for name, file in item.masks.items():
            mask = nib.as_closest_canonical(nib.load(file))
            truth = (np.asarray(mask.dataobj).T.transpose(order)[box] != 0).astype(np.int16)
            stored = open_volume(place.with_name(f"{place.name}__{name}.b2nd"))
            wanted = resample_data_or_seg_to_shape(
                truth[None], shape, spacing, target or spacing, is_seg=True, order=1, force_separate_z=None
            )
            assert (stored.dtype, stored.blocks) == (np.int8, image.blocks)
            assert ((stored[:] == 1) == (wanted == 1)).all()
        properties = pickle.loads(place.with_name(f"{place.name}.pkl").read_bytes())
        itk = properties["sitk_stuff"]
        np.testing.assert_allclose(itk["origin"], original.affine[:3, 3] * [-1, -1, 1], atol=1e-4)
        np.testing.assert_allclose(
            np.reshape(itk["direction"], (3, 3)) * itk["spacing"],
            np.diag([-1, -1, 1]) @ original.affine[:3, :3],
            atol=1e-4,
        )
        assert [list(edge) for edge in properties["bbox_used_for_cropping"]] == [[e.start, e.stop] for e in box]


def as_nnssl_finds_them(raw: Path, folder: Path, configuration: str) -> None:
    """Look for everything in the places that nnssl puts together from the names of pretrain_data.json."""
    (split,) = read_json(folder / "splits_final.json")
    assert len(read_json(folder / "dataset_fingerprint.json")["spacings"]) == 6
    written = read_json(folder / f"pretrain_data__{configuration}.json")
    document, subjects = read_json(raw / "pretrain_data.json"), set()
    for index, dataset in document["datasets"].items():
        for subject, entry in dataset["subjects"].items():
            subjects.add(f"{NAME}__{index}__{subject}")
            for session, images in entry["sessions"].items():
                place = f"{NAME}/nnsslPlans_{configuration}/{NAME}/{index}/{subject}/{session}"
                again = written["datasets"][index]["subjects"][subject]["sessions"][session]["images"]
                for image, other in zip(images["images"], again, strict=True):
                    stem = f"{place}/{image['name'].removesuffix('.nii.gz')}"
                    masks = image["associated_masks"] or {}
                    files = {f"{stem}{ending}" for ending in (".b2nd", ".pkl")}
                    files |= {f"{stem}__anat.b2nd"} if masks.get("anatomy_mask") else set()
                    files |= {f"{stem}__anon.b2nd"} if masks.get("anonymization_mask") else set()
                    there = {str(path.relative_to(folder.parent)) for path in (folder.parent / place).iterdir()}
                    assert {name for name in there if name.startswith((f"{stem}.", f"{stem}__"))} == files
                    assert other["image_path"] == f"$nnssl_preprocessed/{stem}"
                    assert {key: other[key] for key in ("name", "modality")} == {
                        key: image[key] for key in ("name", "modality")
                    }
    assert {*split["train"], *split["val"]} == subjects


def test_masks_keep_their_names(small: Path, document: dict, tmp_path: Path) -> None:
    """Upstream writes the two under each other's name."""
    first = next(item for item in items(Collection.model_validate(document), small.parent) if item.masks)
    other = first.path.with_name("anon.nii.gz")
    shape = nib.load(first.path).shape
    corner = np.zeros(shape, np.uint8)
    corner[0] = 255
    nib.save(nib.Nifti1Image(corner, nib.load(first.path).affine), other)
    entry = next(i for s in document["datasets"].values() for p in s["subjects"].values()
                 for v in p["sessions"].values() for i in v["images"] if i["name"] == first.image.name)  # fmt: skip
    entry["associated_masks"]["anonymization_mask"] = portable(other, {"nnssl_raw": small.parent})
    write_json(small / "pretrain_data.json", document)
    found, _ = run(small, tmp_path / "cache", configuration="noresample", orientation=None)
    place = found.folder / first.folder
    anon = open_volume(place / f"{first.stem}__anon.b2nd")[:]
    anat = open_volume(place / f"{first.stem}__anat.b2nd")[:]
    assert set(np.unique(anon)) <= {-1, 0, 1}
    assert (anon == 1).sum() == corner.any(axis=0).sum() * 1
    assert (anat == 1).sum() == (np.asarray(nib.load(first.masks["anat"]).dataobj) != 0).sum()


def test_images_that_cannot_be_used_are_told_and_left_out(small: Path, document: dict, tmp_path: Path) -> None:
    first, second, third, *rest = items(Collection.model_validate(document), small.parent)
    first.path.write_bytes(first.path.read_bytes()[:3000])
    broken = nib.load(second.path)
    voxels = np.asarray(broken.dataobj, np.float32).copy()
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, broken.affine), second.path)
    third.path.unlink()
    found, said = run(small, tmp_path / "cache")
    assert set(found.excluded) == {first.id, second.id, third.id}
    assert all(str(item.path) in said for item in (first, second, third))
    names = read_json(found.folder.parent / "valid_imgs__onemmiso.json")
    assert names == sorted(item.id for item in rest)
    assert read_json(found.folder.parent / "excluded__onemmiso.json") == found.excluded
    left = read_collection(found.folder.parent / "pretrain_data__onemmiso.json")
    paths = [item.image.image_path for item in items(left, small)]
    assert len(paths) == len(rest)
    assert paths[0] == f"$nnssl_preprocessed/{NAME}/{found.folder.name}/{rest[0].folder}/{rest[0].stem}"


def test_finished_images_are_not_done_again_and_half_written_ones_are(small: Path, tmp_path: Path) -> None:
    found, _ = run(small, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*.pkl")}
    lost = min(before)
    lost.unlink()
    (lost.parent / f".{lost.stem}.part.b2nd").write_bytes(b"cut")
    again, _ = run(small, tmp_path / "cache")
    assert (again.training, again.validation) == (found.training, found.validation)
    after = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*.pkl")}
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert not list(found.folder.rglob(".*"))


def test_a_subject_is_on_one_side_of_the_split(small: Path, tmp_path: Path) -> None:
    found, _ = run(small, tmp_path / "cache")
    sides = [{"/".join(name.split("/")[:3]) for name in side} for side in (found.training, found.validation)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_images_are_chosen_by_modality_and_by_the_score_of_their_data_set(document: dict, real: Path) -> None:
    document["datasets"]["sct-testing"]["dataset_info"]["image_quality_score"] = [
        {"modality": "T2w", "derived_from": "", "image_quality_score": 1.5},
        {"modality": "T1w", "derived_from": "", "image_quality_score": 3},
        {"modality": "bold", "derived_from": "task", "image_quality_score": 1},
    ]
    collection = Collection.model_validate(document)
    found = {item.id: item for item in items(collection, real.parent)}

    def chosen(**words: Any) -> set[str]:
        return {key.rpartition("__")[2] for key in Choice(**words).of(collection, found)}

    assert len(chosen()) == len(found)
    assert {name.rpartition("_")[2] for name in chosen(modalities=("T2w", "bold"))} == {"T2w.nii.gz", "bold.nii.gz"}
    first = "sub-errsm30_ses-01_T2w.nii.gz"
    assert chosen(worst_quality=1.5) == {first}  # the bold image is not derived from what has the score
    assert chosen(worst_quality=1.4) == set()
    assert chosen(worst_quality=3) == {first, "sub-errsm30_ses-01_T1w.nii.gz"}
    assert chosen(worst_quality=3, modalities=("T2w",)) == {first}
    image(document)["image_info"] = {"derived_from": "task"}
    document["datasets"]["sct-testing"]["dataset_info"]["image_quality_score"] = {"T2w": 1}
    with pytest.raises(TrainingError, match="expected a list of modality"):
        Choice().of(Collection.model_validate(document), found)
    document["datasets"]["sct-testing"]["dataset_info"].pop("image_quality_score")
    with pytest.raises(TrainingError, match="no data set of the collection has an image_quality_score"):
        Choice(worst_quality=2).of(Collection.model_validate(document), found)


def test_patches_are_centred_on_anatomy_as_often_as_asked_for(tmp_path: Path) -> None:
    voxels, layout = np.zeros((1, 40, 40, 40), dtype=np.float32), blocks_and_chunks((1, 40, 40, 40), 4)
    voxels[0, 18:22, 18:20, 20] = 1
    for name, volume in (
        ("masked", voxels),
        ("masked__anat", voxels.astype(np.int8) - (voxels == 0)),
        ("bare", voxels),
    ):
        write_volume(
            tmp_path / f"{name}.b2nd", volume.astype(np.int8) if "anat" in name else volume, (40,) * 3, 1, layout
        )

    def share(case: str, on_anatomy: float) -> float:
        store = ImageStore(tmp_path, [case], anatomy=on_anatomy > 0)
        loader = patch_loader(
            store, Reading(patch=(8, 8, 8)), 60, train=False, device=torch.device("cpu"), seed=(1,),
            on_anatomy=on_anatomy,
        )  # fmt: skip
        return float(next(loader)["data"][:, 0, 4, 4, 4].mean())

    assert share("masked", 1.0) == 1
    assert 0.3 < share("masked", 0.5) < 0.7
    assert share("masked", 0.0) < 0.1
    assert share("bare", 1.0) < 0.1


def test_a_collection_of_one_subject_is_refused(small: Path, document: dict, tmp_path: Path) -> None:
    document["datasets"] = dict([next(iter(document["datasets"].items()))])
    write_json(small / "pretrain_data.json", document)
    with pytest.raises(TrainingError, match="1 subjects, needs two"):
        run(small, tmp_path / "cache")
