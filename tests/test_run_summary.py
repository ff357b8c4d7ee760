"""What is told at the end of a training."""

import json

import pytest

from registry import run_summary
from registry.runs import Run

NNUNET = {"metric_per_case": [{}, {}], "mean": {"(1, 2)": {"Dice": 0.91}, "2": {"Dice": float("nan")}}}
LESION = {"cases": {"a": {}}, "mean": {"dice": 0.5, "lesion_f1": None}}
CLASSES = {
    "cases": {"a": {}, "b": {}, "c": {}},
    "labels": {"Contrast": {"macro_auc": 0.98}, "Side": {"macro_auc": None}},
}


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("validation/summary.json", NNUNET, "fold 0, 2 validation cases: Dice sc 0.910, lesion not defined"),
        ("validation/summary.json", LESION, "fold 0, 1 validation case: Dice lesion 0.500, F1 of lesions not defined"),
        ("validation.json", CLASSES, "fold 0, 3 validation cases: AUC Contrast 0.980, Side not defined"),
    ],
)
def test_each_fold_has_a_line_with_what_it_reached(tmp_path, name, document, said):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "sc": [1, 2], "lesion": 2}}))
    for number in range(3):
        (tmp_path / f"fold_{number}" / "validation").mkdir(parents=True)
    for fold in ("fold_0", "fold_2"):  # the third is finished, and was never validated
        (tmp_path / fold / "checkpoint_final.pth").touch()
    (tmp_path / "fold_0" / name).write_text(json.dumps(document))
    (tmp_path / "fold_1" / name).write_text(json.dumps(document))
    assert run_summary.lines(Run(tmp_path, {})) == [said]
