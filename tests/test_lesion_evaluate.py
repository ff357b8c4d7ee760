"""Scores of lesions and the choice of a threshold, against counts done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.lesion.evaluate import choose_threshold, lesion_scores, summary


def test_lesions_are_counted_one_by_one() -> None:
    truth, found = np.zeros((2, 30, 30, 30), dtype=bool)
    truth[2:5, 2:5, 2:5] = True  # found well
    truth[10:13, 10:13, 10:13] = True  # touched by 2 of 27 voxels: too few
    truth[20:24, 20:24, 20:24] = True  # missed
    found[2:5, 2:5, 2:6] = True
    found[12, 12, 11:13] = True  # lies all in a lesion of the reference
    found[27, 1, 1] = found[28, 2, 2] = True  # one part: they share a corner; a false alarm
    scores = lesion_scores(found, truth, (0.5, 1.0, 2.0))
    assert scores["reference_lesions"] == scores["predicted_lesions"] == 3
    assert scores["lesion_sensitivity"] == pytest.approx(1 / 3)
    assert scores["lesion_precision"] == pytest.approx(2 / 3)
    assert scores["lesion_f1"] == pytest.approx(4 / 9)
    assert scores["false_positive_ml"] is None
    assert scores["reference_ml"] == pytest.approx((27 + 27 + 64) / 1000)
    assert scores["dice"] == pytest.approx(2 * 29 / (118 + 40))


def test_cords_without_lesions_have_false_alarms_only() -> None:
    nothing, alarm = np.zeros((2, 9, 9, 9), dtype=bool)
    alarm[3:5, 3:5, 3:5] = True
    scores = lesion_scores(alarm, nothing, (1, 1, 1))
    assert (scores["lesion_sensitivity"], scores["lesion_precision"], scores["lesion_f1"]) == (None, 0, 0)
    assert scores["false_positive_ml"] == pytest.approx(0.008)
    silent = lesion_scores(nothing, nothing, (1, 1, 1))
    assert (silent["lesion_sensitivity"], silent["lesion_precision"], silent["lesion_f1"]) == (None, None, None)
    assert silent["false_positive_ml"] == 0
    assert lesion_scores(nothing, alarm, (1, 1, 1))["lesion_f1"] == 0


def test_the_threshold_is_the_best_one_and_false_alarms_cost() -> None:
    truth = np.zeros((8, 8, 8), dtype=bool)
    truth[:4] = True
    probability = np.where(truth, 0.33, 0.02).astype(np.float32)
    probability[4] = 0.22
    chosen, means = choose_threshold([(probability, truth)])
    assert chosen == 0.3
    assert means["0.3"] == 1 > means["0.2"]
    quiet = np.full((8, 8, 8), 0.3, dtype=np.float32)
    wanting = np.where(truth, 0.8, 0.1).astype(np.float32)
    assert choose_threshold([(wanting, truth)])[0] == 0.5
    assert choose_threshold([(quiet, np.zeros_like(truth)), (wanting, truth)])[0] == 0.5
    assert choose_threshold([]) == (0.5, {})


def test_a_summary_gives_medians_and_quartiles_of_what_is_defined() -> None:
    found = summary({"a": {"dice": 0.2}, "b": {"dice": 0.6}, "c": {"dice": None}, "d": {"dice": 1.0}})
    assert found == {"dice": {"median": 0.6, "iqr": [pytest.approx(0.4), pytest.approx(0.8)], "cases": 3}}
