"""Tables, BIDS and nnU-Net folders of lesions, and contours from Jim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainers.core.errors import TrainingError
from trainers.data.grid import Grid
from trainers.lesion import index, jim

GRID = Grid((40, 30, 5), np.diag([0.5, 0.8, 3.0, 1.0]))


def table(folder: Path, text: str, name: str = "index.csv") -> Path:
    for case in ("a", "b"):
        for kind in ("image", "lesion", "cord"):
            (folder / f"{case}_{kind}.nii.gz").touch()
    (folder / name).write_text(text)
    return folder / name


def test_a_table_in_csv_and_json_says_the_same(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "subject,session,contrast,image,lesion,cord,split\n"
        "sub-1,ses-1,T2w,a_image.nii.gz,a_lesion.nii.gz,a_cord.nii.gz,train\n"
        "sub-2,,T1w,b_image.nii.gz,b_lesion.nii.gz,,val\n",
    )
    cases = index.read_index(path)
    assert [(c.name, c.subject, c.session, c.contrast, c.split) for c in cases] == [
        ("a_image", "sub-1", "ses-1", "T2w", "train"), ("b_image", "sub-2", "", "T1w", "val"),
    ]  # fmt: skip
    assert cases[0].cord == tmp_path / "a_cord.nii.gz"
    assert cases[1].cord is None
    index.write_index(cases, tmp_path / "again.csv")
    assert [vars(c) for c in index.read_index(tmp_path / "again.csv")] == [vars(c) for c in cases]
    rows = [
        {"subject": "sub-1", "session": "ses-1", "contrast": "T2w", "image": "a_image.nii.gz",
         "lesion": "a_lesion.nii.gz", "cord": "a_cord.nii.gz", "split": "train"},
        {"subject": "sub-2", "contrast": "T1w", "image": "b_image.nii.gz", "lesion": "b_lesion.nii.gz", "split": "val"},
    ]  # fmt: skip
    assert index.read_index(table(tmp_path, json.dumps(rows), "index.json")) == cases


def test_everything_that_is_wrong_in_a_table_is_said_at_once(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "subject,contrast,image,lesion,split,age\n"
        "sub-1,T2w,a_image.nii.gz,a_lesion.nii.gz,train,7\n",
    )  # fmt: skip
    with pytest.raises(TrainingError, match="unknown column 'age'"):
        index.read_index(path)
    path = table(
        tmp_path,
        "subject,contrast,image,lesion,split\n"
        "sub-1,T2w,a_image.nii.gz,a_lesion.nii.gz,train\n"
        "sub-1,T2w,a_image.nii.gz,gone.nii.gz,val\n"
        "sub-3,,b_image.nii.gz,b_lesion.nii.gz,valid\n",
    )
    with pytest.raises(TrainingError) as caught:
        index.read_index(path)
    for word in ("gone.nii.gz: no such file", "listed twice", "sub-1: in train and in val", "no contrast", "'valid'"):
        assert word in caught.value.message
    for text in ("subject,contrast,image,lesion\n", "[1]", "{"):
        with pytest.raises(TrainingError):
            index.read_index(table(tmp_path, text, "bad.json" if text[0] in "[{" else "bad.csv"))


def test_a_bids_tree_and_an_nnunet_folder_hold_the_same_cases(test_data: Path) -> None:
    bids = index.from_bids(test_data / "bids_lesion")
    nnunet = index.from_nnunet(test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w")
    assert len(bids) == 13
    assert [(c.name, c.subject, c.contrast) for c in bids] == [(c.name, c.subject, c.contrast) for c in nnunet]
    assert {c.contrast for c in bids} == {"T2w"}
    assert all(c.cord and c.cord.name.endswith("label-SC_seg.nii.gz") for c in bids)
    assert {(c.lesion_values, c.cord_values) for c in nnunet} == {((2,), (1, 2))}
    with pytest.raises(TrainingError, match="no label 'tumour'"):
        index.from_nnunet(test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w", lesion="tumour")
    with pytest.raises(TrainingError, match="no image with a lesion mask"):
        index.from_bids(test_data / "bids_sc")


def roi(kind: str, number: int, points: list[tuple[float, float]], history: str = "") -> str:
    """Write a region as the format's documentation has it."""
    vertices = "\n".join(f"      X={x}; Y={y}" for x, y in points)
    return (
        f'Begin {kind} ROI\n  Build version="6.0_16"\n  Annotation="End Irregular ROI?"\n  Colour=0\n'
        f'  Image source="a b"\n  Slice={number}\n  Created  "1 Jan" by Operator ID="x"\n{history}'
        "  Statistics: Area=1; Mean=2; Std Dev=0.1; Min=0; Max=3\n"
        f"  Begin Shape\n    Points={len(points)}\n{vertices}\n  End Shape\nEnd {kind} ROI\n"
    )


def ellipse(x: float, y: float, a: float, b: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return [(round(x + a * np.cos(t), 4), round(y + b * np.sin(t), 4)) for t in angles]


def test_contours_become_the_pixels_whose_centres_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "lesion.roi"
    path.write_text(
        roi("Irregular", 2, ellipse(-3, 4, 4, 5))
        + roi("Marker", 2, [(0, 0)])
        + roi("Irregular", 2, ellipse(-3, 4, 1.5, 2))
        + roi("Spline", 5, ellipse(1, -2, 3, 3))
        + roi("Irregular", 4, ellipse(0, 0, 3, 3), '  Deleted  "2 Jan" by Operator ID="x"\n')
    )
    contours = jim.read_contours(path)
    assert [c.slice for c in contours] == [1, 1, 4]
    mask = jim.fill(contours, GRID)
    x = (np.arange(40) - 19.5)[:, None] * 0.5
    y = (np.arange(30) - 14.5)[None] * 0.8
    outer = ((x + 3) / 4) ** 2 + ((y - 4) / 5) ** 2 < 1
    inner = ((x + 3) / 1.5) ** 2 + ((y - 4) / 2) ** 2 < 1
    assert (mask[:, :, 1] != (outer & ~inner)).sum() <= 2  # the polygon cuts corners
    assert (mask[:, :, 4] != ((x - 1) ** 2 + (y + 2) ** 2 < 9)).sum() <= 2
    assert not mask[:, :, [0, 2, 3]].any()
    assert np.array_equal(jim.fill(contours, GRID, flips=(True, False))[::-1], mask)
    assert np.array_equal(jim.fill(contours, GRID, flips=(False, True))[:, ::-1], mask)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (roi("Elliptical", 1, ellipse(0, 0, 2, 2)), "kind Elliptical"),
        (roi("Irregular", 1, ellipse(0, 0, 2, 2))[:-30], "has no end"),
        (roi("Irregular", 1, ellipse(0, 0, 2, 2)).replace("Points=60", "Points=61"), "expected 61"),
        (roi("Irregular", 1, [(0, 0), (1, 1)]), "has 2 points"),
        (roi("Irregular", 0, ellipse(0, 0, 2, 2)), "no slice"),
        ("1 2 3\n", "not a ROI file"),
        (roi("Irregular", 6, ellipse(0, 0, 2, 2)), "slice 6, and the image has 5"),
        (roi("Irregular", 1, ellipse(0, 0, 40, 2)), "beyond the image"),
    ],
)
def test_a_damaged_file_and_other_areas_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "bad.roi"
    path.write_text(text)
    with pytest.raises(TrainingError, match=word):
        jim.fill(jim.read_contours(path), GRID, name=str(path))
