"""From an image to the net's volume and back, on real images and on everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from trainers.core.errors import TrainingError
from trainers.data.grid import Grid
from trainers.lesion import index
from trainers.lesion.centreline import Centreline
from trainers.lesion.chain import Place, find_line, prepare, read_lesions
from trainers.lesion.config import GeometrySettings

WINDOW = GeometrySettings()


@pytest.fixture(scope="module")
def cases(test_data: Path) -> list[index.Case]:
    return index.from_nnunet(test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w")


def small(folder: Path, shape: tuple[int, ...] = (40, 40, 12), spacing: tuple[float, ...] = (1, 1, 3)) -> index.Case:
    """Write an image with a cord along its third axis and a lesion in it."""
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    cord = (x - shape[0] // 2) ** 2 + (y - shape[1] // 2) ** 2 < 20
    mask = np.zeros(shape, dtype=np.uint8)
    mask[cord] = 1
    lesion = np.zeros_like(mask)
    lesion[shape[0] // 2, shape[1] // 2] = 1
    affine = np.diag([*spacing, 1.0])
    for name, data in (
        ("image", rng.normal(100, 10, shape).astype(np.float32) + 50 * mask), ("cord", mask), ("lesion", lesion),
    ):  # fmt: skip
        nib.save(nib.Nifti1Image(data, affine), folder / f"{name}.nii.gz")
    return index.Case(
        name="image", subject="sub-1", image=folder / "image.nii.gz", lesion=folder / "lesion.nii.gz",
        cord=folder / "cord.nii.gz",
    )  # fmt: skip


def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("crop", ["window", "box", "none"])
def test_real_lesions_go_in_whole_and_come_back_as_they_were(cases, crop: str) -> None:
    settings = GeometrySettings(crop=crop)
    for case in cases:
        prepared = prepare(case, settings, find_line(case, settings))
        place = Place.from_json(json.loads(json.dumps(prepared.sidecar())))
        truth = read_lesions(case, place.native)
        cut, loss = place.cut_mask(truth)
        assert cut.shape == prepared.image.shape
        assert loss.voxels == 0, (case.name, str(loss))
        volume = cut.sum() * place.work.voxel_mm3
        assert volume == pytest.approx(truth.sum() * place.native.voxel_mm3, rel=0.01)
        # crop → paste restores the mask exactly; so does the way to the image's own grid, but for a voxel or two
        assert np.array_equal(place.crop.apply(place.crop.undo(cut)), cut)
        assert place.crop.undo(cut).sum() == cut.sum()
        back = place.paste(cut.astype(np.float32)) >= 0.5
        assert (back != truth).sum() <= 2, case.name
        assert prepared.image.any(axis=(0, 1)).all()
    if crop == "window":
        assert prepared.image.shape[:2] == (72, 72)


def test_thick_slices_lose_no_plane(test_data: Path) -> None:
    """7.5 mm: with zeros beyond the last slice's centre every tenth plane would be empty."""
    labels = test_data / "bids_sc" / "derivatives" / "labels"
    for name in ("sub-errsm18/anat/sub-errsm18_T2star", "sub-sctt2s/anat/sub-sctt2s_T2star"):
        image = test_data / "bids_sc" / f"{name}.nii.gz"
        cord = labels / f"{name}_label-SC_seg.nii.gz"
        case = index.Case(name="t2s", subject="s", image=image, cord=cord)
        prepared = prepare(case, WINDOW, find_line(case, WINDOW))
        assert prepared.place.native.spacing_mm[2] == pytest.approx(7.5, abs=1e-4)
        assert prepared.image.shape[2] == prepared.place.work.shape[2] == 15 * prepared.place.native.shape[2]
        assert prepared.image.min(axis=(0, 1)).max() < prepared.image.max(axis=(0, 1)).min()
        mask = np.asarray(nib.load(cord).dataobj) > 0
        cut, loss = prepared.place.cut_mask(mask)
        assert loss.voxels == 0
        assert np.array_equal(prepared.place.paste(cut.astype(np.float32)) >= 0.5, mask)


def test_an_image_narrower_than_the_window_is_padded_and_comes_back(tmp_path: Path) -> None:
    case = small(tmp_path, (14, 18, 10), (1, 1, 3))
    prepared = prepare(case, WINDOW, find_line(case, WINDOW))
    assert prepared.image.shape == (72, 72, 60)
    assert prepared.tissue.sample.size <= 28 * 36 * 60
    truth = read_lesions(case, prepared.place.native)
    cut, loss = prepared.place.cut_mask(truth)
    assert loss.voxels == 0
    assert np.array_equal(prepared.place.paste(cut.astype(np.float32)) >= 0.5, truth)
    assert prepared.image.std(axis=(0, 1)).min() > 0


def test_a_window_says_what_it_loses(tmp_path: Path) -> None:
    case = small(tmp_path, (90, 40, 12))
    far = np.zeros((90, 40, 12), dtype=np.uint8)
    far[85, 20, 3] = far[45, 20, 3] = 1
    write(tmp_path / "lesion.nii.gz", far, np.diag([1.0, 1, 3, 1]))
    place = prepare(case, WINDOW, find_line(case, WINDOW)).place
    _, loss = place.cut_mask(read_lesions(case, place.native))
    assert 0 < loss.voxels < loss.of
    assert list(loss.mm) == ["right"]
    assert loss.mm["right"] == pytest.approx(85 - 45 - 18, abs=1.5)


def test_without_a_cord_there_is_one_clear_error(tmp_path: Path) -> None:
    case = small(tmp_path)
    bare = index.Case(name="x", subject="s", image=case.image)
    with pytest.raises(TrainingError, match="no cord mask and no centreline") as caught:
        find_line(bare, WINDOW)
    assert "--cord" in caught.value.hint
    assert find_line(bare, GeometrySettings(crop="none")) is None
    write(tmp_path / "cord.nii.gz", np.zeros((40, 40, 12), dtype=np.uint8))
    with pytest.raises(TrainingError, match=r"cord\.nii\.gz: the cord mask is empty"):
        find_line(case, WINDOW)


def test_a_centreline_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    case = small(tmp_path)
    away = Centreline(np.array([[900.0, 900, 900], [900, 900, 950]]), "line.csv")
    for crop in ("window", "box"):
        with pytest.raises(TrainingError, match=r"image\.nii\.gz: the centreline \(line\.csv\) lies outside"):
            prepare(case, GeometrySettings(crop=crop), away)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((40, 40), "a 2D image"), ((40, 40, 1), "a 2D image"), ((40, 40, 12, 3), "4D image"), ((1, 40, 40), "a 2D image")],
)
def test_slices_and_series_are_refused(tmp_path: Path, shape: tuple[int, ...], word: str) -> None:
    case = small(tmp_path)
    write(case.image, np.random.default_rng(0).normal(size=shape).astype(np.float32))
    with pytest.raises(TrainingError, match=word):
        prepare(case, WINDOW, find_line(case, WINDOW))


def test_a_lesion_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    case = small(tmp_path)
    native = Grid.of(nib.load(case.image))
    assert read_lesions(case, native).any()
    for shape, affine in (((40, 40, 11), np.diag([1.0, 1, 3, 1])), ((40, 40, 12), np.diag([1.0, 1, 3.1, 1]))):
        write(tmp_path / "lesion.nii.gz", np.ones(shape, dtype=np.uint8), affine)
        with pytest.raises(TrainingError, match=r"lesion\.nii\.gz: not on the grid of"):
            read_lesions(case, native)


def test_an_image_of_one_value_is_refused(tmp_path: Path) -> None:
    case = small(tmp_path)
    write(case.image, np.full((40, 40, 12), 5, dtype=np.int16), np.diag([1.0, 1, 3, 1]))
    with pytest.raises(TrainingError, match=r"image\.nii\.gz: there is no tissue"):
        prepare(case, WINDOW, find_line(case, WINDOW))


def test_settings_that_do_not_fit_are_refused() -> None:
    from pydantic import ValidationError

    from trainers.lesion.config import LesionSettings

    settings = LesionSettings.model_validate({"crop": "box", "hold_mm": 5})
    assert (settings.geometry.crop, settings.geometry.hold_mm, settings.geometry.window) == ("box", 5, 48)
    assert settings.geometry.pads["inferior"] == 100
    assert LesionSettings.model_validate(settings.model_dump(mode="json")) == settings
    for wrong in ({"patch": [48, 48, 46], "depth": 3}, {"window": 32}, {"crop": "circle"}, {"pads_mm": [1, 2]}):
        with pytest.raises(ValidationError):
            LesionSettings.model_validate(wrong)
    small_window = LesionSettings.model_validate({"window": 32, "patch": [48, 32, 32]})
    assert small_window.geometry.window == 32
