"""`mreg data import --classify`: tables and BIDS trees become classification datasets that pass `mreg data verify`."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from registry.dataset_verify import verify
from registry.orientation import of_affine
from trainers.classification.dataset import read_dataset
from trainers.classification.folds import make_splits

TASK = "auc23/raw/nnUNet_raw_data/Task520_SpineContrastLesion"
HEADER = "case,image,mask,subject,Contrast,Lesion"
ASKED = ("--dataset-id", 601, "--classify", "Contrast", "--classify", "Lesion=absent,present")
SUBJECTS = 4


@pytest.fixture(scope="module")
def source(test_data, tmp_path_factory):
    """Return a folder with a table of eight real crops of the cord, two of each subject."""
    folder = tmp_path_factory.mktemp("table")
    task = test_data / TASK
    lines = [HEADER]
    for number, case in enumerate(json.loads((task / "dataset.json").read_text())["training"][:8]):
        name = case["image"].rpartition("/")[2].removesuffix(".nii.gz")
        shutil.copy(task / "imagesTr" / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz")
        shutil.copy(task / "labelsTr" / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz")
        contrast, lesion = ("T1w", "T2w", "T2star")[case["Contrast"]], ("absent", "present", "n/a")[number % 3]
        lines.append(f"{name},{name}.nii.gz,{name}_mask.nii.gz,sub-{number % SUBJECTS},{contrast},{lesion}")
    (folder / "cases.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return folder


@pytest.fixture
def table(source, tmp_path):
    """Return the table in a folder of its own, with links to the images."""
    for path in source.glob("*.nii.gz"):
        (tmp_path / path.name).symlink_to(path)
    return shutil.copy(source / "cases.csv", tmp_path / "cases.csv")


def change(table, row, column, text):
    """Change a cell; rows count as a spreadsheet's do."""
    lines = [line.split(",") for line in table.read_text(encoding="utf-8-sig").splitlines()]
    lines[row - 1][lines[0].index(column)] = text
    table.write_text("\n".join(",".join(line) for line in lines) + "\n")


def test_a_table_becomes_a_dataset_in_which_a_subject_lies_on_one_side_of_every_split(table, tmp_path, mreg):
    done = mreg("data", "import", table, tmp_path / "raw", *ASKED, "--test-subject", "sub-3")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "raw" / "Task601_ContrastLesion"
    assert done.stdout.strip() == str(folder)
    assert {finding.code for finding in verify(folder).findings} == {"CLASS009"}  # fewer than five cases of a class
    document = json.loads((folder / "dataset.json").read_text())
    assert (document["numTraining"], document["numTest"], document["image_orientation"]) == (6, 2, "RPI")
    assert document["modality"] == {"0": "MRI"}
    assert document["labels"] == {"0": "background", "1": "region of interest"}
    contrast, lesion = document["classification_labels"]
    assert list(contrast["values"].values()) == sorted(contrast["values"].values())
    assert lesion["values"] == {"0": "absent", "1": "present"}  # in the order of the flag
    assert {case["Lesion"] for case in document["training"]} == {0, 1, None}
    assert {case["group"] for case in document["test"]} == {"sub-3"}
    assert {path.name.rpartition("_")[0] for path in (folder / "imagesTs").iterdir()} == {
        path.name.removesuffix(".nii.gz") for path in (folder / "labelsTs").iterdir()
    }
    assert str(tmp_path) not in (folder / "dataset.json").read_text()
    case = document["training"][0]["image"].rpartition("/")[2].removesuffix(".nii.gz")
    ours, theirs = nib.load(folder / "imagesTr" / f"{case}_0000.nii.gz"), nib.load(table.parent / f"{case}.nii.gz")
    assert of_affine(ours.affine) == "RPI"
    assert np.array_equal(np.sort(ours.get_fdata(), axis=None), np.sort(theirs.get_fdata(), axis=None))
    dataset = read_dataset(folder)
    group = {case.name: case.group for case in dataset.cases}
    for split in make_splits(dataset, 3, 0):
        assert not {group[name] for name in split["train"]} & {group[name] for name in split["val"]}

    again = mreg("data", "import", table, tmp_path / "raw", *ASKED, "--test-subject", "sub-3")
    assert "already imported" in again.stderr
    other = mreg("data", "import", table, tmp_path / "raw", *ASKED)
    assert other.exit_code == 1
    assert "exists with other content" in other.stderr
    named = mreg("data", "import", table, tmp_path / "raw", *ASKED, "--name", "Other")
    assert named.exit_code == 1
    assert "number 601 belongs to Task601_ContrastLesion" in named.stderr


def test_several_channels_without_masks_and_masks_of_several_values(table, tmp_path, mreg):
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    pairs = [line.split(",")[1] for line in lines[1:]]
    rows = [f"case_{n}\t{image}\t{image}\t{n % 2}\t{n % 2 + 9}" for n, image in enumerate(pairs[:4])]
    table.with_name("two.tsv").write_text("\n".join(["case\timage_T1w\timage_CT\tside\tlevel", *rows]))
    done = mreg(
        "data", "import", table.with_name("two.tsv"), tmp_path / "raw", "--dataset-id", 7, "--classify", "side",
        "--classify", "level",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    folder = tmp_path / "raw" / "Task007_SideLevel"
    document = json.loads((folder / "dataset.json").read_text())
    assert document["modality"] == {"0": "T1w", "1": "CT"}
    assert "labels" not in document
    assert "group" not in document["training"][0]
    assert document["classification_labels"][1]["values"] == {"0": "9", "1": "10"}  # numbers by their size
    assert verify(folder).ok
    assert len(read_dataset(folder).cases[0].images) == 2

    mask = next(tmp_path.glob("*_mask.nii.gz"))
    image = nib.load(mask)
    values = np.asarray(image.dataobj).astype(np.uint8)
    values[tuple(np.argwhere(values)[0])] = 2
    mask.unlink()
    nib.save(nib.Nifti1Image(values, image.affine), mask)
    done = mreg(
        "data",
        "import",
        table,
        tmp_path / "raw",
        *ASKED,
        "--label",
        "cord=1",
        "--label",
        "lesion=2",
        "--contrast",
        "CT",
    )
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "raw" / "Task601_ContrastLesion" / "dataset.json").read_text())
    assert document["labels"] == {"0": "background", "1": "cord", "2": "lesion"}
    assert document["modality"] == {"0": "CT"}
    assert verify(tmp_path / "raw" / "Task601_ContrastLesion").ok


@pytest.mark.parametrize(
    ("row", "column", "text", "said"),
    [
        (3, "Lesion", "maybe", "row 3, column Lesion: 'maybe' is none of absent, present"),
        (4, "image", "lost.nii.gz", "row 4, column image: lost.nii.gz: no such file"),
        (4, "image", "", "row 4, column image: is empty"),
        (4, "mask", "scan.mha", "row 4, column mask: scan.mha: not .nii.gz or .nii"),
        (5, "case", "a/b", "row 5, column case: 'a/b' is no name of a file"),
        (5, "case", "spinecl_0001", "row 5, column case: 'spinecl_0001' is there already, in row 2"),
        (6, "subject", "", "row 6, column subject: is empty"),
        (6, "subject", "a,b", "row 6: 7 values"),
        (1, "Lesion", "lesion", "no column Lesion"),
        (1, "Lesion", "Contrast", "row 1: two columns are named 'Contrast'"),
        (1, "Lesion", "", "row 1: column 6 has no name"),
        (1, "image", "picture", "no column image"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_by_row_column_and_value(table, tmp_path, mreg, row, column, text, said):
    change(table, row, column, text)
    done = mreg("data", "import", table, tmp_path / "raw", *ASKED)
    assert done.exit_code == 1
    assert str(table) in done.stderr
    assert said in done.stderr
    assert not (tmp_path / "raw").exists() or list((tmp_path / "raw").iterdir()) == []


def test_images_and_columns_that_cannot_be_used(table, tmp_path, mreg):
    def said(*flags):
        done = mreg("data", "import", table, tmp_path / "raw", "--dataset-id", 1, *flags)
        assert done.exit_code in (1, 2)
        assert not (tmp_path / "raw").exists() or list((tmp_path / "raw").iterdir()) == []
        return done.stderr

    assert "that word has another meaning" in said("--classify", "subject")
    assert "--label cord=SC_seg: not a value of masks" in said("--classify", "Lesion", "--label", "cord=SC_seg")
    assert "values of masks are 1, 2 and so on" in said("--classify", "Lesion", "--label", "cord=2")
    assert "2 --contrast for 1 columns of images: image" in said(
        "--classify", "Lesion", "--contrast", "A", "--contrast", "B"
    )
    assert "no image of test subject sub-9" in said("--classify", "Lesion", "--test-subject", "sub-9")
    assert "--folds does not go with --classify" in said("--classify", "Lesion", "--folds", "3")
    assert "with two classes or more" in said("--classify", "Lesion=one")
    for row in range(2, 10):
        change(table, row, "Contrast", "T1w")
    assert "column Contrast has 1 different values: T1w" in said("--classify", "Contrast")
    masks = sorted(tmp_path.glob("*_mask.nii.gz"))[:2]
    for number, mask in enumerate(masks):
        image = nib.load(mask)
        mask.unlink()
        empty = np.zeros(np.array(image.shape) - number, np.uint8)  # the second one lies on another grid, too
        nib.save(nib.Nifti1Image(empty, image.affine), mask)
    wrong = said("--classify", "Lesion")
    assert f"{masks[0]}: the mask is empty" in wrong
    assert f"{masks[1]}: not on the grid" in wrong


def test_a_bids_tree_takes_classes_from_its_participants(test_data, tmp_path, mreg):
    bids = tmp_path / "bids"
    shutil.copytree(test_data / "bids_sc", bids, ignore=shutil.ignore_patterns("*mt-o*", "sub-errsm21"))
    rows = ["participant_id\tpathology", "sub-errsm11\thealthy", "errsm18\tMS", "sub-errsm30\tn/a", "sub-unf05\tMS"]
    (bids / "participants.tsv").write_text("\n".join(rows))
    asked = ("data", "import", bids, tmp_path / "raw", "--dataset-id", 602, "--classify", "pathology")
    assert "images of several contrasts" in mreg(*asked).stderr
    done = mreg(*asked, "--contrast", "T2w", "--label", "cord=SC_seg")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "raw" / "Task602_Pathology"
    document = json.loads((folder / "dataset.json").read_text())
    assert document["labels"] == {"0": "background", "1": "cord"}
    assert document["modality"] == {"0": "T2w"}
    assert document["classification_labels"][0]["values"] == {"0": "MS", "1": "healthy"}
    groups = [(case["group"], case["pathology"]) for case in document["training"]]
    assert set(groups) == {("sub-errsm11", 1), ("sub-errsm18", 0)}
    assert len(groups) > len(set(groups))  # several images of a subject
    assert verify(folder).ok
    assert "sub-errsm30_T2w: row 4 knows none of pathology" in done.stderr
    (bids / "participants.tsv").write_text("\n".join(rows[:2] + rows[3:]))
    other = mreg(*asked, "--contrast", "T2w", "--name", "Other")
    assert "participants.tsv has no row of sub-errsm18" in other.stderr
    assert "column pathology has 1 different values: healthy" in other.stderr
    (bids / "participants.tsv").write_text("\n".join([*rows, "sub-errsm18\tMS"]))
    assert "row 6, column participant_id: sub-errsm18 is there twice" in mreg(*asked, "--contrast", "T2w").stderr
    assert "no column age" in mreg(*asked, "--classify", "age").stderr
