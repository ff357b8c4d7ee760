"""`mreg data import --pretraining`, and what `mreg data verify` and `mreg check` say of a collection."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from registry.checks import check
from registry.files import read_json, write_json
from registry.schemas import validate
from trainers.core.progress import Progress
from trainers.pretraining.collection import FILE, items, read_collection
from trainers.pretraining.prepare import Preparation, prepare

ANSWER = ["--dataset-id", "531", "--name", "SpineSSL", "--pretraining"]


@pytest.fixture
def tree(test_data: Path, tmp_path: Path) -> Path:
    """Return a BIDS tree of three subjects, one with two sessions, and a series."""
    root = tmp_path / "bids"
    for subject in ("sub-errsm11", "sub-errsm30", "sub-unf05"):
        for part in (subject, f"derivatives/labels/{subject}"):
            shutil.copytree(test_data / "bids_sc" / part, root / part)
    first = next((root / "sub-unf05").rglob("*.nii.gz"))
    image = nib.load(first)
    series = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
    place = root / "sub-unf05" / "ses-02" / "func"
    place.mkdir(parents=True)
    nib.save(nib.Nifti1Image(series, image.affine), place / "sub-unf05_ses-02_bold.nii.gz")
    shutil.copyfile(first, place / "sub-unf05_ses-02_sbref.nii.gz")
    return root


def test_a_bids_tree_becomes_a_collection_that_can_be_trained_on(tree: Path, tmp_path: Path, mreg) -> None:
    done = mreg("data", "import", tree, tmp_path / "raw", *ANSWER, "--label", "anatomy=SC_seg")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "raw" / "Dataset531_SpineSSL"
    assert done.stdout.strip() == str(folder)
    assert "sub-unf05_ses-02_bold.nii.gz: 4 axes" in done.stderr
    document = read_json(folder / FILE)
    assert validate("pretrain_data", document, FILE) == []
    assert str(tmp_path) not in (folder / FILE).read_text()
    found = list(items(read_collection(folder / FILE), folder.parent))
    images = [path for path in tree.glob("sub-*/**/*.nii.gz") if "bold" not in path.name]
    assert {item.path.read_bytes() for item in found} == {path.read_bytes() for path in images}
    assert {item.folder.rpartition("/")[2] for item in found} == {"ses-DEFAULT", "ses-02"}
    masked = [item for item in found if item.masks]
    assert masked
    assert all(item.masks["anat"].name == f"{item.stem}_label-SC_seg.nii.gz" for item in masked)
    report = check(folder)
    assert {finding.code for finding in report.findings} <= {"DATA017"}  # one image is there twice
    prepared = prepare(folder, tmp_path / "cache", Preparation(), Progress())
    assert len(prepared.training) + len(prepared.validation) == len(found)
    again = mreg("data", "import", tree, tmp_path / "raw", *ANSWER, "--label", "anatomy=SC_seg")
    assert "already imported" in again.stderr
    other = mreg("data", "import", tree, tmp_path / "raw", *ANSWER)
    assert other.exit_code == 1
    assert "exists with other content" in other.stderr


def test_images_can_stay_where_they_are(tree: Path, tmp_path: Path, mreg, monkeypatch) -> None:
    monkeypatch.delenv("BIDS_ROOT", raising=False)
    place = tmp_path / "raw"
    done = mreg("data", "import", tree, place, *ANSWER, "--contrast", "T2w", "--variable", "BIDS_ROOT")
    assert done.exit_code == 0, done.output
    folder = place / "Dataset531_SpineSSL"
    assert [path.name for path in folder.iterdir()] == [FILE]
    codes = {finding.code for finding in check(folder).findings}
    assert codes == {"PRETRAIN002"}
    monkeypatch.setenv("BIDS_ROOT", str(tree))
    assert check(folder).findings == ()
    assert all(item.image.modality == "T2w" for item in items(read_collection(folder / FILE), place))


def test_an_nnunet_dataset_becomes_a_collection_without_its_test_images(test_data: Path, tmp_path: Path, mreg) -> None:
    source = test_data / "nnUNet_raw" / "Dataset502_SpinalCordMTS"
    done = mreg("data", "import", source, tmp_path / "raw", *ANSWER)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "raw" / "Dataset531_SpineSSL"
    found = list(items(read_collection(folder / FILE), folder.parent))
    assert {item.path.name for item in found} == {path.name for path in (source / "imagesTr").iterdir()}
    channels = read_json(source / "dataset.json")["channel_names"]
    assert {item.image.modality for item in found} == set(channels.values())
    assert len({item.subject for item in found}) < len(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*ANSWER, "--orientation", "RPI"), "--orientation does not go with --pretraining"),
        (("--dataset-id", "531", "--pretraining"), "--pretraining needs --name"),
        (("--dataset-id", "531", "--variable", "A"), "--variable goes with --pretraining"),
        ((*ANSWER, "--variable", "1A"), "'1A' is no name of a variable"),
        ((*ANSWER, "--label", "sc=SC_seg"), "--label sc: of pre-training there are anatomy and anonymisation"),
        ((*ANSWER, "--contrast", "FLAIR"), "no 3D image of FLAIR"),
    ],
)
def test_what_makes_no_sense_is_one_error(tree: Path, tmp_path: Path, mreg, words, message) -> None:
    done = mreg("data", "import", tree, tmp_path / "raw", *words)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert not list((tmp_path / "raw").glob("*")) if (tmp_path / "raw").exists() else True


@pytest.fixture
def collection(tree: Path, tmp_path: Path, mreg) -> Path:
    shutil.rmtree(tree / "sub-unf05" / "ses-02")
    mreg("data", "import", tree, tmp_path / "raw", *ANSWER, "--contrast", "T2w", "--label", "anatomy=SC_seg")
    folder = tmp_path / "raw" / "Dataset531_SpineSSL"
    assert check(folder).findings == ()
    return folder


def test_names_that_contradict_each_other_are_found(collection: Path) -> None:
    """PRETRAIN001."""
    moved = collection.rename(collection.with_name("Dataset532_Other"))
    codes = {finding.code for finding in check(moved).findings}
    assert codes == {"PRETRAIN001", "PRETRAIN002"}  # and the paths lead nowhere


def test_images_that_are_not_there_are_found(collection: Path) -> None:
    """PRETRAIN002."""
    lost = next(iter(items(read_collection(collection / FILE), collection.parent))).path
    lost.unlink()
    (found,) = check(collection).findings
    assert (found.code, found.path) == ("PRETRAIN002", str(lost.relative_to(collection)))


def test_a_collection_of_one_subject_is_found(collection: Path) -> None:
    """PRETRAIN003."""
    document = read_json(collection / FILE)
    (dataset,) = document["datasets"].values()
    dataset["subjects"] = dict(list(dataset["subjects"].items())[:1])
    write_json(collection / FILE, document)
    assert [finding.code for finding in check(collection).findings] == ["PRETRAIN003"]


def test_a_bad_voxel_and_a_mask_of_another_grid_are_found(collection: Path, mreg) -> None:
    first, second, *_ = items(read_collection(collection / FILE), collection.parent)
    image = nib.load(first.path)
    voxels = np.asarray(image.dataobj, np.float32).copy()
    voxels[0, 0, 0] = np.inf
    nib.save(nib.Nifti1Image(voxels, image.affine), first.path)
    mask = nib.load(second.masks["anat"])
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[1:], mask.affine), second.masks["anat"])
    done = mreg("data", "verify", collection)
    assert done.exit_code == 1
    assert f"error DATA011 {first.path.relative_to(collection)}: 1 voxels" in done.stdout
    assert f"error DATA016 {second.masks['anat'].relative_to(collection)}: not on the grid" in done.stdout


def test_a_document_that_breaks_the_schema_is_told_key_by_key(collection: Path) -> None:
    document = read_json(collection / FILE)
    next(items(read_collection(collection / FILE), collection.parent))
    (dataset,) = document["datasets"].values()
    subject = next(iter(dataset["subjects"].values()))
    next(iter(subject["sessions"].values()))["images"][0]["modality"] = 2
    document["collection_name"] = "Spine"
    write_json(collection / FILE, document)
    codes = sorted(finding.code for finding in check(collection).findings)
    assert codes == ["SCHEMA002", "SCHEMA003"]
