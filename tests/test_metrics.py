"""The scores of a label map, against brute force and against nnU-Net's own."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from trainers.core.metrics import METRICS, case_scores, hd95, mask_scores, mean_scores, surface, values_of

SPACING = (0.5, 1.0, 4.0)
masks = arrays.arrays(bool, (4, 5, 3))


def brute_surface(mask):
    """Look at the six neighbours of every voxel."""
    points = []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                other = voxel.copy()
                other[axis] += step
                inside = ((other >= 0) & (other < mask.shape)).all()
                if not inside or not mask[tuple(other)]:
                    points.append(tuple(voxel))
    return sorted(set(points))


def brute_hd95(first, second):
    """Measure every pair of surface voxels."""
    one, two = (np.array(brute_surface(mask)) * SPACING for mask in (first, second))
    pairs = np.linalg.norm(one[:, None] - two[None], axis=-1)
    return max(np.percentile(pairs.min(axis=1), 95), np.percentile(pairs.min(axis=0), 95))


@settings(deadline=None, max_examples=80)
@given(first=masks, second=masks)
def test_hd95_equals_brute_force(first, second):
    if first.any() and second.any():
        assert hd95(first, second, SPACING) == pytest.approx(brute_hd95(first, second))
        assert sorted(map(tuple, np.argwhere(surface(first)))) == brute_surface(first)
    else:
        assert hd95(first, second, SPACING) is None


def test_hd95_is_a_distance_in_mm_and_leaves_out_the_worst_twentieth():
    line = np.zeros((1, 1, 100), bool)
    line[0, 0, :50] = True
    far = line.copy()
    far[0, 0, 99] = True
    # Of 50 distances, 47 are 0 and the last 2, 4 and 6 mm; the percentile lies 0.55 of the way from 0 to 2.
    assert hd95(line, np.roll(line, 3, axis=2), (1, 1, 2.0)) == pytest.approx(1.1)
    assert hd95(line, far, (1, 1, 2.0)) == 0  # one voxel of 51 is 100 mm away


@settings(deadline=None, max_examples=40)
@given(predicted=masks, reference=masks)
def test_the_counts_agree_with_their_definitions(predicted, reference):
    scores = mask_scores(predicted, reference, SPACING)
    both, found, wanted = (predicted & reference).sum(), predicted.sum(), reference.sum()
    assert scores["dice"] == (pytest.approx(2 * both / (found + wanted)) if found + wanted else None)
    assert scores["precision"] == (pytest.approx(both / found) if found else None)
    assert scores["recall"] == (pytest.approx(both / wanted) if wanted else None)
    assert scores["reference_ml"] == pytest.approx(wanted * 2 / 1000)  # 0.5 x 1 x 4 mm
    assert scores["volume_difference_ml"] == pytest.approx((int(found) - int(wanted)) * 2 / 1000)
    assert set(scores) == set(METRICS)


def test_what_has_no_meaning_is_null_and_left_out_of_the_mean():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    neither, missed, right = (mask_scores(*pair, SPACING) for pair in ((empty, empty), (empty, full), (full, full)))
    assert [neither[key] for key in ("dice", "hd95_mm", "precision", "recall", "volume_difference_percent")] == [
        None
    ] * 5
    assert missed["dice"] == 0
    assert missed["hd95_mm"] is missed["precision"] is None
    assert missed["volume_difference_percent"] == -100
    mean = mean_scores({"a": {"sc": neither}, "b": {"sc": missed}, "c": {"sc": right}})["sc"]
    assert mean["dice"] == 0.5
    assert mean["hd95_mm"] == 0
    assert mean_scores({"a": {"sc": neither}})["sc"]["dice"] is None


def test_a_region_is_all_of_its_values_and_ignored_voxels_count_nowhere():
    reference = np.array([0, 1, 1, 2, 2, 3, 3, 3]).reshape(8, 1, 1)
    predicted = np.array([0, 1, 2, 2, 2, 1, 2, 0]).reshape(8, 1, 1)
    labels = {"background": 0, "sc": [1, 2], "lesion": 2, "ignore": 3}
    scores = case_scores(predicted, reference, labels, (1, 1, 1))
    assert list(scores) == ["sc", "lesion"]
    assert scores["sc"]["dice"] == 1
    assert scores["lesion"]["dice"] == pytest.approx(2 * 2 / (3 + 2))
    assert values_of(labels) == {1, 2, 3}


def test_dice_is_nnunets(tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics
        from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
    rng = np.random.default_rng(3)
    predicted, reference = (rng.integers(0, 4, (9, 8, 7)).astype(np.uint8) for _ in range(2))
    for name, volume in (("predicted", predicted), ("reference", reference)):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("reference", "predicted")]
    theirs = compute_metrics(*files, NibabelIO(), [(1, 2), 2], ignore_label=3)["metrics"]
    ours = case_scores(predicted, reference, {"background": 0, "sc": [1, 2], "lesion": 2, "ignore": 3}, (1, 1, 1))
    assert ours["sc"]["dice"] == pytest.approx(theirs[1, 2]["Dice"])
    assert ours["lesion"]["dice"] == pytest.approx(theirs[2]["Dice"])
