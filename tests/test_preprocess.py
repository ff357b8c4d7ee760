"""What our preprocessing writes, against what nnU-Net's own writes from the same raw data and plans."""

from __future__ import annotations

import contextlib
import errno
import io
import pickle
import shutil
import tracemalloc
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.progress import Progress
from trainers.segmentation import prepare
from trainers.segmentation.config import SegmentationSettings
from trainers.segmentation.fingerprint import facts, fingerprint
from trainers.segmentation.raw_cases import RawCases

SETS = [
    ("Dataset501_SpinalCordT2w", "3d_fullres"),
    ("Dataset502_SpinalCordMTS", "3d_fullres"),
    ("Dataset502_SpinalCordMTS", "2d"),
    ("Dataset503_GrayMatterT2star2D", "2d"),
    ("Dataset510_LesionSCT2w", "3d_fullres"),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder that nnU-Net's variables point into."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(folder / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder))
    monkeypatch.setenv("nnUNet_results", str(folder / "unused"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return folder


def run(dataset: Path, cache: Path, configuration: str = "3d_fullres") -> prepare.Prepared:
    settings = SegmentationSettings(configuration=configuration)
    with contextlib.redirect_stdout(io.StringIO()):
        return prepare.prepare(dataset, cache, settings, 2, Progress(io.StringIO()))


def copy_of(test_data: Path, name: str, to: Path, cases: int) -> Path:
    """Return a raw dataset with the first cases of a real one, each written with gaps of zeros around."""
    source, target = test_data / "nnUNet_raw" / name, to / name
    document = read_json(source / "dataset.json")
    labels = sorted((source / "labelsTr").iterdir())[:cases]
    for path in labels:
        case = path.name.removesuffix(document["file_ending"])
        for image in sorted((source / "imagesTr").glob(f"{case}_0*")):
            (target / "imagesTr").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target / "imagesTr" / image.name)
        (target / "labelsTr").mkdir(exist_ok=True)
        shutil.copyfile(path, target / "labelsTr" / path.name)
    write_json(target / "dataset.json", {**document, "numTraining": len(labels)})
    return target


def same(ours: Path, theirs: Path) -> None:
    """Compare two preprocessed folders: images within 1e-5, labels but for one voxel in 10,000, all properties."""
    cases = sorted(path.stem for path in theirs.glob("*.pkl"))
    assert cases == sorted(path.stem for path in ours.glob("*.pkl"))
    for case in cases:
        a, b = (blosc2.open(str(folder / f"{case}.b2nd"))[:] for folder in (ours, theirs))
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.abs(a - b).max() < 1e-5
        a, b = (blosc2.open(str(folder / f"{case}_seg.b2nd"))[:] for folder in (ours, theirs))
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.mean(a != b) <= 1e-4
        mine, peers = (pickle.loads((folder / f"{case}.pkl").read_bytes()) for folder in (ours, theirs))
        assert set(mine) == set(peers)
        for key, value in peers.items():
            if key == "class_locations":
                assert set(mine[key]) == set(value)
                if np.array_equal(a, b):
                    assert all(np.array_equal(mine[key][label], places) for label, places in value.items())
            elif key == "sitk_stuff":
                assert all(np.allclose(mine[key][name], numbers, atol=1e-9) for name, numbers in value.items())
            else:
                assert np.allclose(np.asarray(mine[key], float), np.asarray(value, float))


def nnunets(dataset: Path, prepared: prepare.Prepared, configuration: str, out: Path) -> None:
    """Preprocess with nnU-Net's own class."""
    plans = PlansManager(prepared.plans)
    settings = plans.get_configuration(configuration)
    out.mkdir()
    for case, files in RawCases(dataset, prepared.dataset_json).files.items():
        DefaultPreprocessor(verbose=False).run_case_save(
            str(out / case), files["images"], files["label"], plans, settings, prepared.dataset_json
        )


@pytest.mark.parametrize(("name", "configuration"), SETS)
def test_our_voxels_are_nnunets(test_data, cache, tmp_path, name, configuration) -> None:
    dataset = copy_of(test_data, name, tmp_path / "raw", 3)
    prepared = run(dataset, cache, configuration)
    nnunets(dataset, prepared, configuration, tmp_path / "theirs")
    plan = PlansManager(prepared.plans).get_configuration(configuration)
    same(prepared.folder / plan.data_identifier, tmp_path / "theirs")


def test_zeros_around_and_within_an_image_are_treated_as_nnunet_does(test_data, cache, tmp_path) -> None:
    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 2)
    for path in (dataset / "imagesTr").iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj).copy()
        voxels[:9] = 0
        voxels[:, -7:] = 0
        voxels[20:24, 20:24, 20:24] = 0  # a hole: filled
        voxels[30:, 5:9, :3] = 0  # a bay: outside
        nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)
    prepared = run(dataset, cache)
    assert prepared.plans["configurations"]["3d_fullres"]["use_mask_for_norm"] in ([True], [False])
    nnunets(dataset, prepared, "3d_fullres", tmp_path / "theirs")
    same(prepared.folder / "nnUNetPlans_3d_fullres", tmp_path / "theirs")
    labels = blosc2.open(str(next((tmp_path / "theirs").glob("*_seg.b2nd"))))[:]
    assert (labels == -1).any()


def test_the_fingerprint_is_what_nnunets_draws_converge_to(test_data, cache) -> None:
    dataset = test_data / "nnUNet_raw" / "Dataset502_SpinalCordMTS"
    (cache / "raw").mkdir()
    (cache / "raw" / dataset.name).symlink_to(dataset)
    raw = RawCases(dataset, read_json(dataset / "dataset.json"))
    ours = fingerprint([facts(raw.read(case), len(raw.files)) for case in raw.files])
    draws = 20_000
    spacings, shapes, sizes, values = [], [], [], []
    for case, files in raw.files.items():
        shape, spacing, drawn, _, size = DatasetFingerprintExtractor.analyze_case(
            files["images"], files["label"], raw.reader, draws
        )
        assert case
        spacings.append(spacing)
        shapes.append(shape)
        sizes.append(size)
        values.append(drawn)
    assert np.allclose(ours["spacings"], spacings)
    assert ours["shapes_after_crop"] == [list(shape) for shape in shapes]
    assert ours["median_relative_size_after_cropping"] == pytest.approx(np.median(sizes))
    for channel in range(2):
        drawn = np.concatenate([case[channel] for case in values])
        found = ours["foreground_intensity_properties_per_channel"][str(channel)]
        error = 5 * drawn.std() / np.sqrt(len(drawn))
        assert found["mean"] == pytest.approx(drawn.mean(), abs=error)
        assert found["std"] == pytest.approx(drawn.std(), abs=error)
        assert (found["min"], found["max"]) == (drawn.min(), drawn.max())
        for name, level in (("percentile_00_5", 0.5), ("median", 50), ("percentile_99_5", 99.5)):
            low, high = np.percentile(drawn, [max(level - 0.4, 0), min(level + 0.4, 100)])
            assert low <= found[name] <= high


def test_every_unusable_case_is_named_and_the_others_are_kept(test_data, cache, tmp_path) -> None:
    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 4)
    run(dataset, cache)
    out = cache / dataset.name / "nnUNetPlans_3d_fullres"
    cases = sorted(path.stem for path in out.glob("*.pkl"))
    for path in out.iterdir():
        path.unlink()
    for case in cases[:2]:
        image = dataset / "imagesTr" / f"{case}_0000.nii.gz"
        image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(TrainingError, match=f"2 of 4 cases.*\n.*{cases[0]}.*\n.*{cases[1]}"):
        run(dataset, cache)
    assert sorted(path.stem for path in out.glob("*.pkl")) == cases[2:]


def test_a_case_that_was_left_half_written_is_written_again(test_data, cache, tmp_path) -> None:
    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 2)
    run(dataset, cache)
    out = cache / dataset.name / "nnUNetPlans_3d_fullres"
    first, second = sorted(out.glob("*.pkl"))
    before = second.stat().st_mtime_ns
    first.unlink()
    (out / f".{first.stem}.part.b2nd").write_bytes(b"cut")
    run(dataset, cache)
    assert first.is_file()
    assert second.stat().st_mtime_ns == before
    assert not list(out.glob(".*"))


def test_an_image_that_fits_no_memory_budget_is_read_twice_with_the_same_result(test_data) -> None:
    dataset = test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
    document = read_json(dataset / "dataset.json")
    kept, read = RawCases(dataset, document, keep=1 << 30), RawCases(dataset, document)
    case = next(iter(kept.files))
    assert kept.read(case) is kept.read(case)
    first, again = read.read(case), read.read(case)
    assert first is not again
    assert np.array_equal(first.images, again.images)


def test_no_step_forks_a_process(test_data, cache, tmp_path, monkeypatch) -> None:
    """A fork of a process with threads may hang, and nnU-Net forks pools to list files."""

    def fork() -> int:
        raise AssertionError("forked")

    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 2)
    monkeypatch.setattr("os.fork", fork)
    run(dataset, cache)
    assert len(list((cache / dataset.name / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == 2


@pytest.mark.parametrize("name", ["Dataset501_SpinalCordT2w", "Dataset502_SpinalCordMTS"])
def test_the_memory_that_a_case_takes_is_foreseen(test_data, cache, tmp_path, name) -> None:
    dataset = copy_of(test_data, name, tmp_path / "raw", 1)
    prepared = run(dataset, cache)
    plans, raw = PlansManager(prepared.plans), RawCases(dataset, prepared.dataset_json)
    settings, (case,) = plans.get_configuration("3d_fullres"), raw.files

    def taken(work) -> int:
        tracemalloc.start()
        try:
            kept = work()
            assert kept is not None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def whole() -> bool:
        arrays = prepare.preprocess(raw.read(case), plans, settings, prepared.dataset_json)
        prepare.save(tmp_path, case, arrays, tuple(settings.patch_size), 1)
        return True

    assert taken(lambda: raw.read(case)) < prepare.nbytes(raw, case) < 6 * taken(lambda: raw.read(case))
    assert taken(whole) < prepare.nbytes(raw, case, plans, settings) < 6 * taken(whole)


def test_a_disk_without_room_is_said_and_nothing_is_left_of_the_case(test_data, cache, tmp_path, monkeypatch) -> None:
    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 2)
    write = blosc2.asarray

    def full(array, **how):
        if "urlpath" not in how:
            return write(array, **how)
        Path(how["urlpath"]).write_bytes(b"half")
        raise RuntimeError("Error while creating the NDArray")  # blosc2's words for it

    def full_too(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = cache / dataset.name / "nnUNetPlans_3d_fullres"
    for name, stub, message in (
        ("trainers.data.store.blosc2.asarray", full, "cannot be written, with .* MB free on the disk"),
        ("trainers.segmentation.preprocess.pickle.dump", full_too, "the disk is full, .* was not written"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, stub)
            with pytest.raises(TrainingError, match=message) as caught:
                run(dataset, cache)
        assert "make room" in caught.value.hint
        assert list(out.iterdir()) == []
    run(dataset, cache)
    assert len(list(out.glob("*.pkl"))) == 2


def test_a_dataset_without_foreground_is_named(test_data, cache, tmp_path) -> None:
    dataset = copy_of(test_data, "Dataset501_SpinalCordT2w", tmp_path / "raw", 1)
    (path,) = (dataset / "labelsTr").iterdir()
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    with pytest.raises(TrainingError, match=f"{dataset}: no label map has a foreground voxel"):
        run(dataset, cache)
