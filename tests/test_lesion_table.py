"""Tables of lesions on the command line: made from BIDS and nnU-Net folders, imported, with contours of Jim."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from registry import lesion, training
from registry.lesion import cords_beside
from registry.model_toml import find_repo
from trainers.lesion.index import from_nnunet, read_index

AFFINE = np.array([[-0.5, 0, 0, 8], [0, 0.8, 0, -9], [0, 0, 3.0, -20], [0, 0, 0, 1]])  # RPI, 32 x 24 x 6
SHAPE = (32, 24, 6)
HEADER = "subject,session,contrast,image,lesion,cord,split\n"
SPOTS = {"a": (8, 10, 2), "b": (10, 12, 3), "c": (9, 11, 4)}  # voxel in the middle of each lesion


def in_cord() -> np.ndarray:
    x, y, _ = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return (x - 9) ** 2 + (y - 11) ** 2 < 25


def around(spot: tuple[int, int, int]) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return (abs(x - spot[0]) <= 2) & (abs(y - spot[1]) <= 1) & (z == spot[2])


def contour(spot: tuple[int, int, int]) -> str:
    """Draw the same rectangle as Jim writes it: mm from the middle of the slice, slices from 1 on."""
    x, y = ((spot[axis] - (SHAPE[axis] - 1) / 2) * mm for axis, mm in ((0, 0.5), (1, 0.8)))
    corners = [(x + a, y + b) for a, b in ((-1.2, -1.1), (1.2, -1.1), (1.2, 1.1), (-1.2, 1.1))]
    points = "\n".join(f"      X={a:.4f}; Y={b:.4f}" for a, b in corners)
    return (
        f'Begin Irregular ROI\n  Build version="6.0_16"\n  Annotation=""\n  Colour=0\n  Slice={spot[2] + 1}\n'
        f"  Begin Shape\n    Points={len(corners)}\n{points}\n  End Shape\nEnd Irregular ROI\n"
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Write three cases: images, cords, and the lesions as masks and as contours."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, spot in SPOTS.items():
        image = rng.normal(500, 50, SHAPE).astype(np.float32)
        for kind, data in (("image", image), ("cord", in_cord()), ("lesion", around(spot))):
            kept = data if kind == "image" else data.astype(np.uint8)
            nib.save(nib.Nifti1Image(kept, AFFINE), folder / f"{name}_{kind}.nii.gz")
        (folder / f"{name}.roi").write_text(contour(spot))
    return folder


def rows(lesion: str = "{}_lesion.nii.gz", cord: str = "{}_cord.nii.gz", splits: str = "train train val") -> str:
    return HEADER + "".join(
        f"P{name},1,T2w,{name}_image.nii.gz,{lesion.format(name)},{cord.format(name)},{split}\n"
        for name, split in zip(SPOTS, splits.split(), strict=True)
    )


def imported(mreg, files: Path, text: str, *options: str) -> Path:
    (files / "index.csv").write_text(text)
    done = mreg("data", "import", files / "index.csv", files.parent / "raw", "--dataset-id", 7, *options)
    assert done.exit_code == 0, done.stderr
    return Path(done.stdout.strip())


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_masks_and_contours_become_the_same_dataset(mreg, files: Path) -> None:
    """What is written in RPI comes back as it was drawn; masks and contours give the same voxels."""
    for drawn in ("{}_lesion.nii.gz", "{}.roi"):
        dataset = imported(mreg, files, rows(drawn))
        document = json.loads((dataset / "dataset.json").read_text())
        assert document["labels"] == {"background": 0, "sc": [1, 2], "lesion": 2}
        assert document["channel_names"] == {"0": "T2w"}
        names = [f"sub-P{name}_ses-1_desc-{name}image_T2w" for name in SPOTS]
        assert json.loads((dataset / "splits_final.json").read_text()) == [{"train": names[:2], "val": names[2:]}]
        for name, case in zip(SPOTS, names, strict=True):
            expected = np.where(around(SPOTS[name]), 2, in_cord().astype(int))
            assert np.array_equal(voxels(dataset / "labelsTr" / f"{case}.nii.gz"), expected)
        assert mreg("data", "verify", dataset).exit_code == 0
        assert {case.contrast for case in from_nnunet(dataset)} == {"T2w"}
        dataset.rename(files / drawn.replace("{}", ""))


def test_contours_that_come_out_mirrored_are_noticed_and_turned(mreg, files: Path) -> None:
    for path in files.glob("*_image.nii.gz"):  # all of the image but the contours turned left to right
        for kind in ("image", "cord", "lesion"):
            other = path.with_name(path.name.replace("image", kind))
            nib.save(nib.Nifti1Image(voxels(other)[::-1].copy(), AFFINE), other)
    (files / "index.csv").write_text(rows("{}.roi"))
    mirrored = mreg("data", "import", files / "index.csv", files, "--dataset-id", 8)
    assert "a.roi: 0% of its area lie in the cord: is the image mirrored? see --jim-flip" in mirrored.stderr
    dataset = imported(mreg, files, rows("{}.roi"), "--jim-flip", "x")
    for name in SPOTS:
        found = voxels(dataset / "labelsTr" / f"sub-P{name}_ses-1_desc-{name}image_T2w.nii.gz") == 2
        assert np.array_equal(found, around(SPOTS[name])[::-1])


def test_centrelines_and_missing_cords_are_kept_beside_the_labels(mreg, files: Path) -> None:
    (files / "a_line.csv").write_text("x_mm,y_mm,z_mm\n1,0,-20\n1,0,-5\n")
    line = np.zeros(SHAPE, dtype=np.uint8)
    line[9, 11] = 1
    nib.save(nib.Nifti1Image(line, AFFINE), files / "b_line.nii.gz")
    text = rows(splits="train train test").replace("a_cord.nii.gz", "a_line.csv")
    text = text.replace("b_cord.nii.gz", "b_line.nii.gz").replace("c_cord.nii.gz", "")
    dataset = imported(mreg, files, text, "--orientation", "LPI", "--folds", "2")
    document = json.loads((dataset / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "lesion": 1}
    assert (document["numTraining"], document["numTest"]) == (2, 1)
    a, b = (f"sub-P{name}_ses-1_desc-{name}image_T2w" for name in "ab")
    assert cords_beside(dataset) == {
        a: str(dataset / "cords" / f"{a}.csv"), b: str(dataset / "cords" / f"{b}.nii.gz"),
    }  # fmt: skip
    assert (dataset / "cords" / f"{a}.csv").read_text() == (files / "a_line.csv").read_text()
    assert len(json.loads((dataset / "splits_final.json").read_text())) == 2
    assert np.array_equal(voxels(dataset / "labelsTr" / f"{a}.nii.gz"), around(SPOTS["a"])[::-1])
    assert mreg("data", "verify", dataset).exit_code == 0
    root = files.parent / "model_seg_lesion_t2"
    root.mkdir()
    (root / "model.toml").write_text(
        f'[model]\nname = "{root.name}"\n[data]\ndataset = "../raw/{dataset.name}"\n[train]\nrecipe = "lesion"\n'
    )
    repo = find_repo(root)
    planned = training.plan(repo, {})
    assert set(lesion.job(repo, planned, gpus=1, max_minutes=None)["cords"]) == {a, b}
    (dataset / "cords" / f"{a}.csv").write_text("x_mm,y_mm,z_mm\n2,0,-20\n2,0,-5\n")
    assert training.plan(repo, {}).run != planned.run  # another line is another training


def test_a_table_is_made_from_bids_and_from_nnunet_and_comes_back(mreg, test_data: Path, tmp_path: Path) -> None:
    """The labels of three datasets that hold the same cases are the same, voxel by voxel."""
    whole = test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
    for source, name in ((test_data / "bids_lesion", "bids.csv"), (whole, "nnunet.json")):
        done = mreg("data", "index", source, tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert "13 cases" in done.stderr
        assert done.stdout.strip() == str(tmp_path / name)
    with (tmp_path / "bids.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert all((tmp_path / row[key]).is_file() for row in listed for key in ("image", "lesion", "cord"))
    cases = read_index(tmp_path / "nnunet.json")
    assert {(case.lesion_values, case.cord_values) for case in cases} == {((2,), (1, 2))}
    assert [case.name for case in cases] == [case.name for case in read_index(tmp_path / "bids.csv")]
    keep = [row for row in listed if row["subject"] in ("sub-errsm11", "sub-errsm18")][:3]
    with (tmp_path / "few.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0])
        writer.writeheader()
        writer.writerows(keep)
    (tmp_path / "few.json").write_text(json.dumps(json.loads((tmp_path / "nnunet.json").read_text())[:3]))
    made = []
    for number, name in enumerate(("few.csv", "few.json"), start=1):
        done = mreg("data", "import", tmp_path / name, tmp_path, "--dataset-id", number, "--orientation", "AIL")
        assert done.exit_code == 0, done.stderr
        made.append(Path(done.stdout.strip()))
    for path in (made[0] / "labelsTr").iterdir():
        assert np.array_equal(voxels(path), voxels(made[1] / "labelsTr" / path.name))
        assert np.array_equal(voxels(path), voxels(whole / "labelsTr" / path.name))
    document = json.loads(mreg("data", "index", whole, tmp_path / "more.csv", "--json").stdout)
    assert document == {"table": str(tmp_path / "more.csv"), "cases": len(list((whole / "labelsTr").iterdir()))}
    again = mreg("data", "index", whole, tmp_path / "bids.csv")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (rows().replace("b_lesion.nii.gz", "gone.nii.gz"), ["row 2: column lesion: gone.nii.gz: no such file"]),
        (rows().replace("c_cord.nii.gz", "c.roi"), ["row 3: column cord: c.roi: not one of .nii.gz, .nii, .csv"]),
        (rows(splits="train valid val"), ["row 2: column split: 'valid' is none of train, val, test"]),
        (rows().replace("split", "side"), ["row 1: unknown column 'side'", "columns: subject, session"]),
        (
            rows().replace("Pa,1,T2w", ",1,T2w").replace("Pb,1,T2w", "Pb,1,"),
            ["row 1: no subject", "row 2: no contrast"],
        ),
        (rows().replace("Pb", "Pa").replace("a_image.nii.gz", "a_image.nii.gz#1"), ["only masks take values after #"]),
        (rows(splits="train val val").replace("Pb", "Pa"), ["subject Pa: in train and in val"]),
        (rows(splits="test test test"), ["every subject is a test subject"]),
        (HEADER, ["no rows"]),
    ],
)
def test_what_is_wrong_is_said_by_row_column_and_value(mreg, files: Path, text: str, words: list[str]) -> None:
    (files / "index.csv").write_text(text)
    done = mreg("data", "import", files / "index.csv", files.parent / "raw", "--dataset-id", 7)
    assert done.exit_code == 1
    for word in words:
        assert word in done.stderr
    assert not list(files.parent.glob("raw/*"))


def test_flags_that_a_table_answers_are_refused(mreg, files: Path) -> None:
    (files / "index.csv").write_text(rows())
    place = ("data", "import", files / "index.csv", files, "--dataset-id", 7)
    assert "its columns say what --contrast would" in mreg(*place, "--contrast", "T2w").stderr
    assert "its column split says what --folds would" in mreg(*place, "--folds", "3").stderr
    assert "no subject sub-P9; there are: sub-Pa, sub-Pb" in mreg(*place, "--test-subject", "P9").stderr.replace(
        "\nhint: ", "; "
    )
    (files / "b.roi").write_text("nonsense\n")
    (files / "index.csv").write_text(rows("{}.roi"))
    done = mreg(*place)
    assert (done.exit_code, "b.roi: not a ROI file of Jim" in done.stderr) == (1, True)
    bids = mreg("data", "import", files, files, "--dataset-id", 7, "--jim-flip", "x")
    assert (bids.exit_code, "--jim-flip goes with a table of lesions" in bids.stderr) == (2, True)
    assert not list(files.glob("Dataset*"))
