"""Standard intensities: monotone, finite, and unmoved by what is no tissue."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.core.errors import TrainingError
from trainers.lesion.intensity import PUBLISHED, Standard, Tissue, percentiles


def tissue(seed: int, gain: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Return voxels of cord, fluid and surroundings."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(500, 60, 4000), rng.normal(2400, 150, 1500), rng.normal(150, 50, 6000)]
    return (np.concatenate(parts) * gain + offset).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([*PUBLISHED, "own", "zscore"]), st.floats(0, 0.7))
def test_brighter_stays_brighter_and_everything_is_finite(seed: int, scheme: str, zeros: float) -> None:
    voxels = tissue(seed)
    voxels[: int(zeros * len(voxels))] = 0  # p1 = p10 and more of them
    standard = Standard.published(scheme) if scheme in PUBLISHED else Standard(scheme="zscore")
    if scheme == "own":
        standard = Standard.fit([("T2w", Tissue.of(voxels)), ("T2w", Tissue.of(tissue(seed + 1, 3.0)))])
    ramp = np.linspace(-2000, 9000, 5000, dtype=np.float32)
    found = standard.apply(ramp, Tissue.of(voxels))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert (np.diff(percentiles(voxels)) > 0).all()


def test_scanner_scale_and_offset_do_not_matter() -> None:
    standard = Standard.fit([("T2w", Tissue.of(tissue(n, 1 + n, 40 * n))) for n in range(4)])
    one, other = (standard.apply(voxels, Tissue.of(voxels)) for voxels in (tissue(9), tissue(9, 7.3, -300)))
    assert np.allclose(one, other, atol=1e-3)
    assert abs(one.mean()) < 0.1
    assert one.std() == pytest.approx(1, abs=0.1)


def test_each_contrast_has_its_landmarks_and_a_new_one_gets_those_of_all() -> None:
    cases = [("T2w", tissue(0)), ("T1w", 3000 - tissue(1)), ("T2w", tissue(2))]
    standard = Standard.fit((contrast, Tissue.of(voxels)) for contrast, voxels in cases)
    image, first = cases[0][1], Tissue.of(cases[0][1])
    assert sorted(standard.landmarks) == ["", "T1w", "T2w"]
    assert standard.landmarks["T1w"] != standard.landmarks["T2w"]
    assert np.array_equal(standard.apply(image, first, "PD"), standard.apply(image, first, ""))
    again = Standard.from_json(json.loads(json.dumps(standard.as_json())))
    assert again == standard
    assert np.array_equal(again.apply(image, first, "T1w"), standard.apply(image, first, "T1w"))


def test_published_landmarks_put_tissue_where_the_published_models_expect_it() -> None:
    voxels = tissue(3)
    found = Standard.published("sct-t2").apply(voxels, Tissue.of(voxels))
    assert abs(found.mean()) < 0.3
    assert found.std() == pytest.approx(1.2, abs=0.3)
    back = found * 557.916 + 871.309
    assert np.percentile(back, [1, 50, 99]) == pytest.approx([0, 696.67, 2611], abs=5)


def test_an_image_of_one_value_is_refused() -> None:
    flat = np.full(100, 7, dtype=np.float32)
    with pytest.raises(TrainingError, match="single value"):
        Tissue.of(flat)
    with pytest.raises(TrainingError, match="no tissue"):
        percentiles(flat[:0])
