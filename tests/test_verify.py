"""`mreg data verify`: each defect of a raw dataset of real MRI is found, all of them in one go."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fixtures_dataset import CASES, write_dataset

from registry.dataset_findings import KINDS

FIRST = f"imagesTr/{CASES[0]}_0000.nii.gz"
LABEL = f"labelsTr/{CASES[0]}.nii.gz"
TEST = "imagesTs/sub-04_T1w_0000.nii.gz"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def findings_of(mreg, dataset: Path) -> list[dict]:
    result = mreg("data", "verify", dataset, "--json")
    document = json.loads(result.stdout)
    assert document["ok"] == (result.exit_code == 0)
    assert all(not Path(finding["path"]).is_absolute() for finding in document["findings"])
    return document["findings"]


def codes_of(mreg, dataset: Path) -> set[str]:
    return {finding["code"] for finding in findings_of(mreg, dataset)}


def edit_image(path: Path, change) -> None:
    image = nib.load(path)
    array, affine = change(np.asarray(image.dataobj).astype(np.float32), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def edit_document(raw: Path, **changes) -> None:
    path = raw / "dataset.json"
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def write_splits(raw: Path, splits: object) -> None:
    (raw / "splits_final.json").write_text(json.dumps(splits))


def cut(raw: Path) -> None:
    path = raw / FIRST
    path.write_bytes(path.read_bytes()[:-4])  # the voxels are all there, the checksum is not


def set_first_voxel(value: float):
    def change(array, affine):
        array[0, 0, 0] = value
        return array, affine

    return change


def forget_orientation(raw: Path) -> None:
    image = nib.load(raw / FIRST)
    plain = nib.Nifti1Image(np.asarray(image.dataobj), None)
    plain.header["sform_code"] = plain.header["qform_code"] = 0
    nib.save(plain, raw / FIRST)


def part_forms(raw: Path) -> None:
    image = nib.load(raw / FIRST)
    image.set_qform(image.affine + np.diag([0, 0, 0.5, 0]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), raw / FIRST)


# One break a kind of finding, and where the finding must point to.
BREAKS = {
    "DATA001": ("imagesTr", lambda raw: shutil.rmtree(raw / "imagesTr")),
    "DATA002": ("labelsTr/notes.txt", lambda raw: (raw / "labelsTr" / "notes.txt").write_text("x")),
    "DATA003": ("dataset.json", lambda raw: rename_all(raw, ".png")),
    "DATA004": (
        f"imagesTr/{CASES[0]}_0001.nii.gz",
        lambda raw: edit_document(raw, channel_names={"0": "T1w", "1": "T2w"}),
    ),
    "DATA005": (
        f"imagesTr/{CASES[0]}_0001.nii.gz",
        lambda raw: shutil.copy(raw / FIRST, raw / "imagesTr" / f"{CASES[0]}_0001.nii.gz"),
    ),
    "DATA006": (LABEL, lambda raw: (raw / LABEL).unlink()),
    "DATA007": (LABEL, lambda raw: (raw / FIRST).unlink()),
    "DATA008": ("dataset.json", lambda raw: edit_document(raw, numTraining=None)),
    "DATA009": ("dataset.json", lambda raw: edit_document(raw, numTraining=7)),
    "DATA010": (FIRST, cut),
    "DATA011": (FIRST, lambda raw: edit_image(raw / FIRST, set_first_voxel(np.inf))),
    "DATA012": (FIRST, lambda raw: edit_image(raw / FIRST, lambda a, m: (a * 0, m))),
    "DATA013": (FIRST, lambda raw: edit_document(raw, image_orientation="RPI")),
    "DATA014": (LABEL, lambda raw: edit_image(raw / LABEL, set_first_voxel(3))),
    "DATA015": (LABEL, lambda raw: edit_image(raw / LABEL, lambda a, m: (a * 0, m))),
    "DATA016": (LABEL, lambda raw: edit_image(raw / LABEL, lambda a, m: (a[:-1], m))),
    "DATA017": (TEST, lambda raw: shutil.copy(raw / FIRST, raw / TEST)),
    "DATA018": ("splits_final.json", lambda raw: write_splits(raw, [{"train": [[1]], "val": ["x"]}])),
    "DATA019": ("splits_final.json", lambda raw: write_splits(raw, [{"train": ["nobody"], "val": [CASES[0]]}])),
    "DATA020": ("splits_final.json", lambda raw: write_splits(raw, [{"train": [*CASES], "val": [CASES[0]]}])),
    "DATA021": ("dataset.json", lambda raw: edit_document(raw, training=["/home/jane/data/sub-01.nii.gz"])),
    "DATA022": ("imagesTs", lambda raw: rename_test(raw, "sub-01_ses-2_T1w")),
    "DATA023": ("splits_final.json", lambda raw: write_splits(raw, [{"train": [CASES[1]], "val": [CASES[0]]}])),
    "DATA024": (FIRST, forget_orientation),
    "DATA025": (FIRST, part_forms),
    "DATA026": ("dataset.json", lambda raw: edit_document(raw, image_orientation=None)),
    "DATA027": (
        "dataset.json",
        lambda raw: edit_document(raw, dataset={"a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}),
    ),
}


def rename_all(raw: Path, ending: str) -> None:
    edit_document(raw, file_ending=ending)
    for path in raw.rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.replace(".nii.gz", ending)))


def rename_test(raw: Path, case: str) -> None:
    (raw / TEST).rename(raw / "imagesTs" / f"{case}_0000.nii.gz")
    (raw / "labelsTs" / "sub-04_T1w.nii.gz").rename(raw / "labelsTs" / f"{case}.nii.gz")


def test_every_kind_of_finding_has_its_break() -> None:
    assert sorted([*BREAKS, "DATA028"]) == sorted(KINDS)  # a folder's name has its example in tests/data/checks


def test_the_manual_lists_every_kind_of_finding() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    assert set(re.findall(r"DATA\d{3}", page)) == set(KINDS)


def test_a_good_dataset_has_no_finding(mreg, raw) -> None:
    assert findings_of(mreg, raw) == []
    assert "no problem found" in mreg("data", "verify", raw).stdout


@pytest.mark.parametrize("code", sorted(BREAKS))
def test_each_defect_is_found_where_it_is(mreg, raw, code) -> None:
    path, break_it = BREAKS[code]
    break_it(raw)
    found = {(finding["code"], finding["path"], finding["level"]) for finding in findings_of(mreg, raw)}
    assert (code, path, KINDS[code].level) in found


def test_all_defects_are_reported_in_one_go_and_by_file(mreg, raw) -> None:
    cut(raw)
    edit_image(raw / "imagesTr" / f"{CASES[1]}_0000.nii.gz", set_first_voxel(np.nan))
    edit_image(raw / "labelsTr" / f"{CASES[2]}.nii.gz", lambda a, m: (a, m + np.diag([0, 0, 0.5, 0])))
    (raw / "labelsTs" / "sub-04_T1w.nii.gz").unlink()
    (raw / "labelsTs" / "._sub-04_T1w.nii.gz").write_bytes(b"what a Mac leaves behind")
    edit_document(raw, numTraining=5, labels={"background": 0, "gm": 1})
    write_splits(raw, [{"train": [CASES[0]], "val": ["sub-09_T1w"]}])
    result = mreg("data", "verify", raw)
    assert result.exit_code == 1
    for words in (
        f"DATA010 {FIRST}",
        f"DATA011 imagesTr/{CASES[1]}_0000.nii.gz",
        f"DATA016 labelsTr/{CASES[2]}.nii.gz",
        f"DATA014 {LABEL}",
        "DATA009 dataset.json",
        "DATA019 splits_final.json",
    ):
        assert words in result.stdout
    assert "._sub" not in result.stdout


def test_the_orientation_is_printed_in_both_conventions(mreg, raw) -> None:
    edit_document(raw, image_orientation="RPI")
    messages = [finding["message"] for finding in findings_of(mreg, raw) if finding["code"] == "DATA013"]
    assert messages == ["is LPI (SCT; nibabel RAS), dataset.json says RPI (SCT; nibabel LAS)"] * 4


def test_images_are_still_read_where_dataset_json_is_broken(mreg, raw) -> None:
    edit_document(raw, image_orientation="rpi", labels={"background": "zero"}, channel_names=[])
    cut(raw)
    found = findings_of(mreg, raw)
    codes = {finding["code"] for finding in found}
    assert {"SCHEMA002", "SCHEMA003", "LABEL001", "DATA010", "DATA026"} <= codes
    assert next(f["hint"] for f in found if f["code"] == "DATA026") == '"image_orientation": "LPI"'


def test_mixed_orientations_are_told_where_dataset_json_says_none(mreg, raw) -> None:
    edit_document(raw, image_orientation=None)
    for path in (raw / FIRST, raw / LABEL):
        edit_image(path, lambda a, m: (a, m @ np.diag([-1, 1, 1, 1])))
    found = [finding for finding in findings_of(mreg, raw) if finding["code"] == "DATA013"]
    assert "LPI (SCT; nibabel RAS): 6, RPI (SCT; nibabel LAS): 2" in found[0]["message"]


def test_an_ignore_label_and_region_values_are_known(mreg, raw) -> None:
    edit_document(raw, labels={"background": 0, "brain": [1, 2], "wm": 2, "ignore": 3}, regions_class_order=[1, 2])
    edit_image(raw / LABEL, set_first_voxel(3))
    assert "DATA014" not in codes_of(mreg, raw)


def test_uncompressed_datasets_are_read(mreg, raw) -> None:
    edit_document(raw, file_ending=".nii")
    for path in [*raw.rglob("*.nii.gz")]:
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    assert findings_of(mreg, raw) == []
    path = raw / FIRST.removesuffix(".gz")
    path.write_bytes(path.read_bytes()[:-100])
    assert codes_of(mreg, raw) == {"DATA010"}


@pytest.mark.parametrize("content", [None, "{", "[]", "\xff"])
def test_without_a_dataset_json_there_is_one_error(mreg, raw, content) -> None:
    path = raw / "dataset.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    result = mreg("data", "verify", raw)
    assert result.exit_code == 1
    assert "dataset.json" in result.stderr
    assert result.stderr.count("error:") == 1


def test_a_folder_that_is_not_there_is_one_error(mreg, tmp_path) -> None:
    result = mreg("data", "verify", tmp_path / "Dataset999_None")
    assert result.exit_code == 1
    assert "no such folder" in result.stderr


@pytest.mark.parametrize(
    "name",
    ["Dataset501_SpinalCordT2w", "Dataset502_SpinalCordMTS", "Dataset503_GrayMatterT2star2D", "Dataset510_LesionSCT2w"],
)
def test_the_real_sets_are_clean(mreg, test_data, name) -> None:
    assert findings_of(mreg, test_data / "nnUNet_raw" / name) == []
