"""Tables of answers in terminals of any width."""

import pytest

from registry import output
from registry.commands import evaluate, show

SCORES = {
    "dice": 0.9054, "hd95_mm": 1.57, "precision": 0.912, "recall": 0.898, "volume_difference_ml": -1.701,
    "volume_difference_percent": -40.8, "reference_ml": 4.172,
}  # fmt: skip
LESIONS = {
    **SCORES, "predicted_ml": 2.5, "reference_lesions": 2, "predicted_lesions": 3, "lesion_sensitivity": 1.0,
    "lesion_precision": 0.667, "lesion_f1": 0.8, "false_positive_ml": None,
}  # fmt: skip


def evaluation(scores, case="sub-errsm30_T2w"):
    return {
        "dataset": "Dataset501_ScT2w", "split": "test", "folds": [0], "half": False,
        "cases": {case: {"sc": scores}}, "mean": {"sc": scores},
    }  # fmt: skip


@pytest.mark.parametrize(("columns", "scores"), [(80, SCORES), (60, SCORES), (100, LESIONS)])
def test_a_table_of_figures_fits_its_terminal_and_says_what_was_left_out(monkeypatch, capsys, columns, scores):
    monkeypatch.setenv("COLUMNS", str(columns))
    evaluate._print_rich(evaluation(scores))
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= columns
    assert "0.905" in shown.out
    assert "sub-errsm30_T2w" in shown.out
    left_out = "left out for want of room: " in shown.err
    assert left_out == ("ref. ml" not in shown.out)
    monkeypatch.setenv("COLUMNS", "160")
    evaluate._print_rich(evaluation(scores))
    whole = capsys.readouterr()
    assert (whole.err, "ref. ml" in whole.out) == ("", True)


def test_the_name_of_a_case_is_never_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    name = "sub-a-very-long-name_ses-another-one_acq-sagittal_T2w"
    evaluate._print_rich(evaluation(SCORES, name))
    assert name in capsys.readouterr().out


def test_a_digest_goes_below_its_name_where_a_terminal_is_narrow(monkeypatch):
    rows = [("model_seg_sc_t2-r20261121.zip", "871,851", "5" * 64), ("SHA256SUMS", "180", "b" * 64)]
    whole = show._assets(rows)
    assert [line.split() for line in whole] == [list(row) for row in rows]
    monkeypatch.setattr(output, "width", lambda: 120)
    assert show._assets(rows) == whole
    monkeypatch.setattr(output, "width", lambda: 80)
    narrow = show._assets(rows)
    assert [line.split() for line in narrow] == [[*row[:2]] if n == 0 else [row[2]] for row in rows for n in range(2)]
    assert max(map(len, narrow)) + 4 <= 80
    assert show._assets([]) == []
