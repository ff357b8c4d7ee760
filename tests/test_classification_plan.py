"""What a classifier sees of a case: boxes, margins, spacing, size, normalisation and orientation, held against hand."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from fixtures_classification import edit, write_task

from trainers.classification.config import PROFILES, ClassificationSettings
from trainers.classification.crop import crop, margin_voxels, tight_box, with_margin
from trainers.classification.dataset import read_dataset
from trainers.classification.images import RawCase, read_case, read_volume
from trainers.classification.plan import Plan, planned_batch, read_plan, target_spacing, transposition
from trainers.classification.preprocess import (
    fit,
    load,
    load_case,
    normalise,
    plan_dataset,
    preprocess,
    preprocess_dataset,
)  # fmt: skip
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.progress import Progress
from trainers.nets.i3d import I3D, I3DConfig, same_padding

torch.set_num_threads(1)


def raw(shape, mask=None, value=1.0, channels=1):
    return RawCase(images=np.full((channels, *shape), value, np.float32), mask=mask, spacing=(1.0, 1.0, 1.0))


def region(shape, *edges):
    mask = np.zeros(shape, np.int16)
    mask[tuple(slice(*edge) for edge in edges)] = 1
    return mask


@pytest.mark.parametrize(("extent", "voxels"), [(1, 1), (19, 1), (20, 1), (21, 2), (100, 5), (140, 7)])
def test_margins_are_a_share_of_the_extent_and_at_least_a_voxel(extent, voxels):
    assert margin_voxels(extent, 0.05) == voxels
    assert margin_voxels(extent, 0) == 0
    box = ((150, 150 + extent),) * 3
    assert with_margin(box, (400,) * 3, 0.05) == ((150 - voxels, 150 + extent + voxels),) * 3


def test_boxes_equal_those_by_hand_also_at_the_border():
    shape = (40, 120, 30)
    mask = region(shape, (0, 19), (10, 110), (29, 30))
    cropped = crop(raw(shape, mask), 0.05)
    assert cropped.box == ((0, 20), (5, 115), (28, 30))
    assert cropped.images.shape == (1, 20, 110, 2)
    assert cropped.mask.min() == -1  # the margin lies outside of the region
    assert (cropped.mask == 1).sum() == 19 * 100
    whole = crop(raw(shape, region(shape, (0, 40), (0, 120), (0, 30))), 0.05)
    assert whole.box == ((0, 40), (0, 120), (0, 30))


def test_content_is_cropped_first_and_holes_are_filled():
    shape = (20, 20, 20)
    case = raw(shape, value=0.0)
    case.images[0, 4:16, 4:16, 4:16] = 5
    case.images[0, 8:10, 8:10, 8:10] = 0  # a hole
    found = crop(case, 0.05)
    assert found.box == ((4, 16),) * 3
    assert (found.mask == 1).all()  # no region: everything is of interest
    mask = region(shape, (2, 10), (6, 10), (6, 10))
    mask[5, 7, 7] = 0  # a hole in the region stays background, not outside
    both = crop(RawCase(images=case.images, mask=mask, spacing=case.spacing), 0.05)
    assert both.box == ((4, 11), (5, 11), (5, 11))
    assert both.mask[5 - 4, 7 - 5, 7 - 5] == 0
    assert tight_box(mask > 0) == ((2, 10), (6, 10), (6, 10))


def test_spacing_is_the_median_and_finer_along_thick_slices():
    fine = np.array([[1.0, 1, 1]] * 5)
    shapes = np.full((5, 3), 50)
    assert target_spacing(fine, shapes).tolist() == [1, 1, 1]
    thick = np.array([[z, 0.5, 0.5] for z in (2, 5, 5, 5, 5)])
    assert target_spacing(thick, np.array([[10, 100, 100]] * 5)).tolist() == pytest.approx([3.2, 0.5, 0.5])
    assert target_spacing(thick, np.array([[40, 100, 100]] * 5)).tolist() == [5, 0.5, 0.5]  # enough slices
    assert transposition([1, 3, 2]) == (1, 0, 2)
    assert transposition([1, 1, 1]) == (0, 1, 2)
    assert planned_batch(120**3, 8, 100) == 8
    assert planned_batch(240**3, 8, 100) == 2
    assert planned_batch(24**3, 8, 5) == 5


def test_the_size_holds_every_case_and_is_planned_coarser_beyond_the_limit(tmp_path):
    dataset = read_dataset(write_task(tmp_path, masks=False, cases=4))
    plan = plan_dataset(dataset, ClassificationSettings(), 1, Progress())
    assert plan.image_size == (28, 26, 24)  # z, y, x
    assert plan.spacing == (1, 1, 1)
    assert plan.orientation == "LPI"
    assert not plan.has_roi
    small = plan_dataset(dataset, ClassificationSettings(max_voxels=28 * 26 * 24 // 8), 1, Progress())
    assert small.spacing == pytest.approx((2, 2, 2))
    assert small.image_size == (14, 13, 12)
    write_json(tmp_path / "plans.json", plan.model_dump(mode="json"))
    assert read_plan(tmp_path) == plan


def test_a_case_is_padded_or_cut_around_its_middle():
    line = np.arange(5)[None, :, None, None]
    assert fit(line, (8, 1, 1), -1).ravel().tolist() == [-1, -1, 0, 1, 2, 3, 4, -1]
    assert fit(line, (3, 1, 1), -1).ravel().tolist() == [1, 2, 3]
    assert fit(line, (5, 1, 1), -1).ravel().tolist() == [0, 1, 2, 3, 4]


def test_channels_are_normalised_by_their_names(tmp_path):
    root = write_task(tmp_path, modalities=3, cases=4)
    edit(root, modality={"0": "CT", "1": "T2w", "2": "noNorm"})
    dataset = read_dataset(root)
    settings = ClassificationSettings(roi_margin=0)
    plan = plan_dataset(dataset, settings, 2, Progress())
    values = []
    for case in dataset.cases:
        image, mask = (np.asarray(nib.load(path).dataobj) for path in (case.images[0], case.mask))
        values.append(image[mask > 0])
    pooled = np.concatenate(values)
    assert plan.normalisation[0].mean == pytest.approx(pooled.mean(), rel=1e-5)
    assert plan.normalisation[0].low == pytest.approx(np.percentile(pooled, 0.5))
    case = dataset.cases[0]
    raw_case = read_case(case.images, case.mask, plan.orientation)
    seen = load_case(case.images, case.mask, plan)
    cropped = crop(raw_case, 0)
    inside = [
        slice(p // 2 - n // 2, p // 2 - n // 2 + n)
        for p, n in zip(plan.image_size, cropped.mask.shape, strict=True)
    ]  # fmt: skip
    part = seen.images[(slice(None), *inside)]
    low, high = plan.normalisation[0].low, plan.normalisation[0].high
    wanted = (np.clip(cropped.images[0], low, high) - plan.normalisation[0].mean) / plan.normalisation[0].std
    assert part[0] == pytest.approx(wanted, abs=1e-4)
    assert (part[1].mean(), part[1].std()) == pytest.approx((0, 1), abs=1e-4)
    assert part[2] == pytest.approx(cropped.images[2])
    assert set(np.unique(seen.mask)) == {-1, 0, 1} or set(np.unique(seen.mask)) == {-1, 1}


def test_what_lies_outside_of_the_region_is_kept_unless_the_switch_says_otherwise():
    volume = np.random.default_rng(1).normal(5, 2, (6, 6, 6)).astype(np.float32)
    mask = np.full((6, 6, 6), -1, np.int16)
    mask[2:4, 2:4, 2:4] = 1
    how = Plan.model_fields["normalisation"].annotation.__args__[0](scheme="zscore")
    kept, erased = volume.copy(), volume.copy()
    normalise(kept, mask, how, masked=False)
    normalise(erased, mask, how, masked=True)
    assert (kept[mask < 0] != 0).all()
    assert (erased[mask < 0] == 0).all()
    assert erased[mask > 0].mean() == pytest.approx(0, abs=1e-5)


def test_every_orientation_gives_the_same_case_and_files_of_challenges_too(tmp_path):
    dataset = read_dataset(write_task(tmp_path, cases=2))
    case = dataset.cases[0]
    wanted = read_case(case.images, case.mask, "RPI")
    for axes in ("RAS", "PSR", "LIA"):
        turned = []
        for path in (case.images[0], case.mask):
            image = nib.load(path)
            way = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
            target = tmp_path / axes / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image.as_reoriented(way), target)
            turned.append(target)
        found = read_case(turned[:1], turned[1], "RPI")
        assert np.array_equal(found.images, wanted.images)
        assert np.array_equal(found.mask, wanted.mask)
    meta = tmp_path / "a.mha"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(turned[0])), str(meta))
    assert np.allclose(read_volume(meta).affine, nib.load(turned[0]).affine, atol=1e-5)
    assert np.array_equal(read_case([meta], turned[1], "RPI").images, wanted.images)


def test_the_raw_folder_stays_as_it_is_and_what_is_there_is_not_done_again(tmp_path):
    root = write_task(tmp_path / "raw", masks=False, cases=3)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    dataset = read_dataset(root)
    plan = plan_dataset(dataset, ClassificationSettings(), 1, Progress())
    store = tmp_path / "store"
    preprocess_dataset(dataset, plan, store, 2, Progress())
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    (store / "brain_piece_0001.json").unlink()  # as if killed there
    stays = (store / "brain_piece_0000.b2nd").stat().st_mtime_ns
    preprocess_dataset(dataset, plan, store, 2, Progress())
    assert (store / "brain_piece_0000.b2nd").stat().st_mtime_ns == stays
    case = dataset.cases[1]
    again = load(store, case.name)
    direct = load_case(case.images, None, plan)
    assert np.array_equal(again.images, direct.images)
    assert np.array_equal(again.mask, direct.mask)
    assert (direct.mask >= 0).all()
    assert json.loads((store / "brain_piece_0001.json").read_text())["box"] == [[0, 28], [0, 26], [0, 24]]


def test_a_case_larger_than_the_plan_is_cut_and_says_so(tmp_path):
    dataset = read_dataset(write_task(tmp_path, masks=False, cases=3))
    plan = plan_dataset(dataset, ClassificationSettings(image_size=(20, 26, 24)), 1, Progress())
    seen = load_case(dataset.cases[0].images, None, plan)
    assert seen.images.shape == (1, 20, 26, 24)
    assert seen.cut == (8, 0, 0)


def test_bad_files_are_named(tmp_path):
    root = write_task(tmp_path, cases=2)
    case = read_dataset(root).cases[0]
    image = nib.load(case.mask)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), case.mask)
    with pytest.raises(TrainingError, match=r"brain_piece_0000\.nii\.gz: the mask is empty"):
        read_case(case.images, case.mask, "RPI")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), image.affine), case.mask)
    with pytest.raises(TrainingError, match="not on the grid of"):
        read_case(case.images, case.mask, "RPI")
    shutil.copy(case.mask, tmp_path / "mask.png")
    with pytest.raises(TrainingError, match="unknown format"):
        read_volume(tmp_path / "mask.png")


def test_the_region_of_real_cords_is_kept_with_its_margin(test_data):
    root = test_data / "auc23" / "raw" / "nnUNet_raw_data" / "Task520_SpineContrastLesion"
    dataset = read_dataset(root)
    case = dataset.cases[0]
    found = crop(read_case(case.images, case.mask, "LPI"), 0.05)
    mask = nib.as_closest_canonical(nib.load(case.mask)).get_fdata().T > 0
    for axis, (low, high) in enumerate(found.box):
        along = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        extent = along[-1] + 1 - along[0]
        margin = max(1, int(np.ceil(extent * 0.05)))
        assert (low, high) == (max(0, along[0] - margin), min(mask.shape[axis], along[-1] + 1 + margin))
    plan = plan_dataset(dataset, ClassificationSettings(), 2, Progress())
    assert plan.roi_classes == 1
    assert plan.spacing == (1, 1, 1)
    seen = preprocess(found, plan)
    assert seen.cut == (0, 0, 0)


# Numbers of parameters that are published with the baseline, less its head of 400 classes that nothing calls.
@pytest.mark.parametrize(
    ("channels", "classes", "count"),
    [(2, (2,), 12_267_362), (2, (2, 2), 12_269_412), (3, (2,), 12_289_314), (5, (3,), 12_334_243)],
)
def test_the_net_has_the_published_number_of_parameters(channels, classes, count):
    with torch.device("meta"):
        net = I3D(I3DConfig(channels=channels, classes=classes))
        other = I3D(I3DConfig(channels=channels, classes=classes, norm="group"))
    for made in (net, other):
        assert sum(parameter.numel() for parameter in made.parameters()) == count


@pytest.mark.parametrize(
    ("size", "left"),
    [((64, 64, 64), (8, 2, 2)), ((20, 64, 64), (3, 2, 2)), ((2, 2, 2), (1, 1, 1)), ((33, 5, 40), (5, 1, 2))],
)
def test_strides_are_8_and_32_and_each_head_has_its_logits(size, left):
    torch.manual_seed(0)
    net = I3D(I3DConfig(channels=2, classes=(2, 3), width=0.125, pool="video"))
    volume = torch.randn(2, 2, *size)
    assert net.encoder(volume).shape[2:] == left
    logits = net(volume)
    assert [tuple(found.shape) for found in logits] == [(2, 2), (2, 3)]
    sum(found.square().sum() for found in logits).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in net.heads)
    assert same_padding((8,), (7,), (2,)) == [2, 3]


def test_windows_of_a_video_weigh_the_border_less_than_the_plain_mean():
    torch.manual_seed(0)
    plain, video = (
        I3D(I3DConfig(channels=1, classes=(2,), width=0.125, norm="group", pool=pool)) for pool in ("global", "video")
    )
    video.load_state_dict(plain.state_dict())
    volume = torch.randn(1, 1, 24, 64, 64)
    places = plain.encoder(volume).detach()  # 3 x 2 x 2 places: windows of 2 x 2 x 2, the middle one lies in both
    weights = torch.tensor([0.25, 0.5, 0.25])[:, None, None] / 4
    assert video.features(volume).detach() == pytest.approx((places * weights).sum(dim=(2, 3, 4)), abs=1e-5)
    assert plain.features(volume).detach() == pytest.approx(places.mean(dim=(2, 3, 4)), abs=1e-5)
    assert not torch.allclose(plain.features(volume), video.features(volume), atol=1e-3)


def test_profiles_say_what_the_user_does_not():
    settings = ClassificationSettings(profile="auc23", lr=0.5).resolved()
    assert (settings.lr, settings.momentum, settings.epochs, settings.norm) == (0.5, 0.99, 200, "batch")
    default = ClassificationSettings().resolved()
    assert (default.optimiser, default.lr, default.norm) == ("adamw", 1e-3, "batch")
    for profile in PROFILES:
        document = ClassificationSettings(profile=profile).resolved().model_dump()
        assert {key for key, value in document.items() if value is None} == {
            "batch_size", "image_size", "spacing", "mirror", "encoder", "start_from",
        }  # fmt: skip
