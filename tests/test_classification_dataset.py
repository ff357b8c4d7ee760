"""What `mreg data verify` and `mreg check` say of classification datasets: a break for each of their rules."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from fixtures_classification import LABELS, edit, edit_case, write_task

from registry.checks import check
from registry.classification_dataset import KINDS
from registry.dataset_verify import verify
from registry.errors import IntegrityError

IMAGE, MASK = "imagesTr/brain_piece_0000_0000.nii.gz", "labelsTr/brain_piece_0000.nii.gz"
CASE = "brain_piece_0000"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture
def copied(task, tmp_path):
    return shutil.copytree(task, tmp_path / task.name)


def change_voxels(path, change, affine=None):
    image = nib.load(path)
    array = np.asarray(image.dataobj).astype(np.float32)
    nib.save(nib.Nifti1Image(change(array), image.affine if affine is None else affine(image.affine)), path)


def set_first(value):
    def change(array):
        array[0, 0, 0] = value
        return array

    return change


def stretch(path, factors):
    change_voxels(path, lambda array: array, lambda affine: affine @ np.diag(factors))


def few_of_a_class(root):
    document = json.loads((root / "dataset.json").read_text())
    for case in document["training"]:
        case["Contrast"] = 0
    edit(root, training=document["training"])


def renamed_task(root):
    root.rename(root.with_name("Brains"))
    return root.with_name("Brains")


# rule of the layout's specification → (code, place, text of the message, break)
BREAKS = {
    "1 folder": ("CLASS001", "", "Brains is not", renamed_task),
    "1 keys": ("SCHEMA001", "dataset.json", "'numTraining'", lambda r: edit(r, numTraining=None)),
    "2 modality": ("SCHEMA001", "dataset.json", "modality: key '0'", lambda r: edit(r, modality={"1": "MRI"})),
    "3 values": (
        "SCHEMA003", "dataset.json", "values",
        lambda r: edit(r, classification_labels=[{**LABELS[0], "values": {"0": "a", "1": "b", "3": "c"}}, LABELS[1]]),
    ),
    "3 taken": (
        "SCHEMA003", "dataset.json", "other than image",
        lambda r: edit(r, classification_labels=[*LABELS, {**LABELS[0], "name": "image"}]),
    ),
    "3 twice": (
        "CLASS002", "dataset.json", "'Height' is there twice",
        lambda r: edit(r, classification_labels=[*LABELS, LABELS[1]]),
    ),
    "4 missing": ("CLASS003", "dataset.json", f"{CASE} has no value", lambda r: edit_case(r, 0, Height=None)),
    "4 range": ("CLASS003", "dataset.json", f"{CASE}: Height = 3", lambda r: edit_case(r, 0, Height=3)),
    "4 text": ("SCHEMA002", "dataset.json", "training[0].Height", lambda r: edit_case(r, 0, Height="1")),
    "4 bool": ("SCHEMA002", "dataset.json", "training[0].Height", lambda r: edit_case(r, 0, Height=True)),
    "5 image": ("DATA004", IMAGE, f"channel 0 of case {CASE}", lambda r: (r / IMAGE).unlink()),
    "5 folder": ("DATA001", "imagesTr", "no folder", lambda r: shutil.rmtree(r / "imagesTr")),
    "5 twice": (
        "CLASS004", "dataset.json", f"{CASE} is listed 2 times",
        lambda r: edit_case(r, 1, image=f"./imagesTr/{CASE}.nii.gz"),
    ),
    "5 stranger": (
        "CLASS005", "imagesTr/other_0000.nii.gz", "not listed",
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr/other_0000.nii.gz"),
    ),
    "5 name": ("DATA002", "imagesTr/notes.txt", "not named", lambda r: (r / "imagesTr/notes.txt").write_text("x")),
    "5 channel": (
        "DATA005", f"imagesTr/{CASE}_0001.nii.gz", "channel 1",
        lambda r: shutil.copy(r / IMAGE, r / f"imagesTr/{CASE}_0001.nii.gz"),
    ),
    "6 entry": ("CLASS006", "dataset.json", "1 of 15 cases name no mask", lambda r: edit_case(r, 0, label=None)),
    "6 file": ("CLASS006", MASK, "has no mask", lambda r: (r / MASK).unlink()),
    "6 labels": ("CLASS006", "dataset.json", "no labels", lambda r: edit(r, labels=None)),
    "7 values": ("DATA014", MASK, "2", lambda r: change_voxels(r / MASK, set_first(2))),
    "7 keys": ("SCHEMA001", "dataset.json", "labels: key '0'", lambda r: edit(r, labels={"1": "gray matter"})),
    "7 empty": ("CLASS007", MASK, "empty", lambda r: change_voxels(r / MASK, lambda a: a * 0)),
    "8 shape": ("DATA016", MASK, "not on the grid", lambda r: change_voxels(r / MASK, lambda a: a[:-1])),
    "8 place": ("DATA016", MASK, "mm away", lambda r: stretch(r / MASK, [1, 1, 1.1, 1])),
    "9 image": ("DATA011", IMAGE, "1 voxels are NaN", lambda r: change_voxels(r / IMAGE, set_first(np.inf))),
    "10": ("CLASS008", "dataset.json", "several", lambda r: [stretch(r / p, [-1, 1, 1, 1]) for p in (IMAGE, MASK)]),
    "11": ("DATA009", "dataset.json", "numTraining = 7", lambda r: edit(r, numTraining=7)),
    "12": ("CLASS009", "dataset.json", "Contrast = 1: 0 of 15", few_of_a_class),
}  # fmt: skip


def test_good_ones_have_no_finding(task, tmp_path, test_data):
    assert verify(task).findings == ()
    assert verify(write_task(tmp_path, masks=False, modalities=2)).findings == ()
    real = test_data / "auc23" / "raw" / "nnUNet_raw_data"
    assert verify(real / "Task520_SpineContrastLesion").findings == ()
    levels = [(f.code, f.level) for f in verify(real / "Task521_SpineRegionT2w").findings]
    assert levels == [("CLASS009", "warning")] * 2  # 4 cases of two regions


def test_a_dataset_like_the_layouts_example_is_good_once_its_comma_is_gone(copied):
    # Two answers with spaces in their names, CT, lobes as the region: what the layout's own page shows.
    labels = [
        {"name": name, "ordinal": False, "values": {"0": "no", "1": "yes"}} for name in ("COVID-19", "Severe COVID-19")
    ]
    cases = json.loads((copied / "dataset.json").read_text())["training"]
    training = [
        {"image": case["image"], "COVID-19": n % 2, "Severe COVID-19": n // 2 % 2, "label": case["label"]}
        for n, case in enumerate(cases)
    ]
    lobes = {str(number): f"part {number}" for number in range(11)}
    edit(copied, modality={"0": "CT"}, classification_labels=labels, labels=lobes, numTest=0, training=training)
    assert verify(copied).findings == ()
    file = copied / "dataset.json"
    last = f'"{training[0]["label"]}"'
    file.write_text(file.read_text().replace(last, f"{last},"))
    with pytest.raises(IntegrityError, match=r"dataset.json: not JSON: line \d+"):
        verify(copied)


@pytest.mark.parametrize("rule", BREAKS)
def test_each_rule_has_a_break_that_it_finds(copied, rule):
    code, place, said, change = BREAKS[rule]
    made = change(copied)
    root = made if rule == "1 folder" else copied
    report = check(root)
    found = [finding for finding in report.findings if finding.code == code and finding.path == place]
    assert found, report.findings
    assert any(said in finding.message for finding in found), found
    assert report.ok == (found[0].level != "error")


def test_every_kind_has_a_break_and_all_are_told_at_once(copied):
    assert {code for code, *_ in BREAKS.values()} >= set(KINDS)
    for rule in ("3 twice", "4 range", "5 image", "6 entry", "7 empty", "9 image", "11"):
        if rule != "5 image":
            BREAKS[rule][3](copied)
    (copied / "imagesTr/brain_piece_0002_0000.nii.gz").unlink()
    found = {finding.code for finding in verify(copied).findings}
    assert {"CLASS002", "CLASS003", "DATA004", "CLASS006", "CLASS007", "DATA011", "DATA009"} <= found


def test_a_value_that_is_not_known_is_null_and_a_group_is_text(copied):
    edit_case(copied, 0, Contrast="null", group="sub-01")
    assert verify(copied).findings == ()


def test_the_command_tells_the_same(copied, mreg):
    edit_case(copied, 0, Height=9)
    result = mreg("data", "verify", copied)
    assert result.exit_code == 1
    assert "error CLASS003 dataset.json: case brain_piece_0000: Height = 9" in result.stdout
