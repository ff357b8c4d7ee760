"""Predictions: the same as nnU-Net's own, in the geometry of the image, whatever that is."""

import gzip
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run_mreg
from fixtures_model import job, stock_labels, write_model

from registry import demo_data
from trainers.core.errors import TrainingError
from trainers.data.orientation import OPPOSITE, Reorientation
from trainers.segmentation.predict import run

TILT = np.array([[1, 0, 0, 0], [0, 0.98, -0.199, 0], [0, 0.199, 0.98, 0], [0, 0, 0, 1]])
SC = {"background": 0, "sc": 1}


@pytest.fixture(scope="module", autouse=True)
def _nnunet() -> None:
    """Import nnU-Net once; its dependencies warn while they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nnunetv2.inference.predict_from_raw_data
        import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401


@pytest.fixture(scope="module")
def volume() -> nib.Nifti1Image:
    """Return a small oblique piece of the MNI152 template with a header full of details."""
    source = nib.load(demo_data.template_files()["t1"])
    data = np.asarray(source.dataobj)[60:84, 70:90, 66:84].astype(np.int16)
    image = nib.Nifti1Image(data, TILT @ source.affine @ np.diag([0.9, 1.0, 1.2, 1]))
    image.header["descrip"] = b"patient and scanner"
    image.header.set_xyzt_units("mm", "sec")
    image.header["toffset"] = 0.5
    return image


def stored(image: nib.Nifti1Image, code: str, path: Path) -> Path:
    """Store the same anatomy with its axes starting at the sides of an SCT code."""
    ends = nib.orientations.axcodes2ornt([OPPOSITE[letter] for letter in code])
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), ends))
    nib.save(turned, path)
    return path


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("mirror", [False, True])
def test_labels_are_those_of_stock_nnunet(volume, tmp_path, mirror):
    model = write_model(tmp_path / "model", spacing=(1.1, 1.0, 0.8), folds=("0", "1"))
    image = stored(volume, "RPI", tmp_path / "image.nii.gz")
    case = {"name": "a", "images": [str(image)], "folds": ["0", "1"], "output": str(tmp_path / "a.nii.gz")}
    run(job(model, [case], mirror=mirror))
    expected = stock_labels(model, [image], folds=("0", "1"), mirror=mirror)
    assert np.array_equal(labels_of(tmp_path / "a.nii.gz"), expected)
    assert np.array_equal(np.unique(expected), [0, 1])  # random weights: both labels, however few voxels
    assert not np.array_equal(expected, stock_labels(model, [image], folds=("0",), mirror=mirror))


KINDS = {
    "two channels, thick slices": (
        {"channels": 2, "spacing": (5.0, 0.9, 0.9)},
        [f"nnUNet_raw/Dataset502_SpinalCordMTS/imagesTr/sub-unf05_chunk-2_MTS_000{c}.nii.gz" for c in range(2)],
    ),
    "regions": (
        {"labels": {"background": 0, "sc": [1, 2], "lesion": 2}, "order": [1, 2], "orientation": "AIL"},
        ["nnUNet_raw/Dataset510_LesionSCT2w/imagesTr/sub-errsm18_chunk-4_T2w_0000.nii.gz"],
    ),
    "2d, one slice": (
        {"labels": {"background": 0, "wm": 1, "gm": 2}, "dimensions": 2, "spacing": (7.5, 0.5, 0.5)},
        ["nnUNet_raw/Dataset503_GrayMatterT2star2D/imagesTr/sub-sctt2s_T2star_slice-04_0000.nii.gz"],
    ),
    "2d in a volume": (
        {"labels": SC, "dimensions": 2, "orientation": "LPI"},
        ["nnUNet_raw/Dataset501_SpinalCordT2w/imagesTs/sub-errsm30_T2w_0000.nii.gz"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_gives_what_stock_nnunet_gives_on_real_mri(test_data, tmp_path, kind):
    arguments, names = KINDS[kind]
    model = write_model(tmp_path / "model", **arguments)
    images = [test_data / name for name in names]
    out = tmp_path / "out.nii.gz"
    run(job(model, [{"name": "a", "images": [str(image) for image in images], "output": str(out)}]))
    expected = stock_labels(model, images)
    # Random weights leave many voxels undecided, where the last bit of the resampled image counts.
    assert np.count_nonzero(labels_of(out) != expected) <= 5e-5 * expected.size
    assert len(np.unique(expected)) == len(arguments.get("labels", SC))


def test_a_trained_network_gives_what_stock_nnunet_gives(test_data, tmp_path):
    """Dice of 0.9999 leaves no room for one voxel of a cord: the label maps are equal."""
    import torch

    from trainers.segmentation.network import load_model

    data = test_data / "nnUNet_raw" / "Dataset501_SpinalCordT2w"
    image, label = (
        data / "imagesTr" / "sub-errsm11_chunk-1_T2w_0000.nii.gz",
        data / "labelsTr" / "sub-errsm11_chunk-1_T2w.nii.gz",
    )
    model = write_model(tmp_path / "model", spacing=(0.9, 1.1, 1.0), orientation="LPI")
    network = load_model(model, ["0"]).network
    voxels = torch.from_numpy(labels_of(image).transpose().astype(np.float32))
    voxels = ((voxels - voxels.mean()) / voxels.std())[None, None]
    truth = torch.from_numpy(labels_of(label).transpose().astype(np.int64))[None]
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    part = (slice(16, 48), slice(12, 44), slice(10, 42))
    voxels, truth = voxels[:, :, *part], truth[:, *part]
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(network(voxels), truth, weight=torch.tensor([1.0, 10.0]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    file = model / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=True), "network_weights": network.state_dict()}, file)
    run(job(model, [{"name": "a", "images": [str(image)], "output": str(tmp_path / "a.nii.gz")}]))
    found, expected = labels_of(tmp_path / "a.nii.gz"), stock_labels(model, [image])
    assert np.count_nonzero(expected) > 1000
    assert 2 * np.count_nonzero(found & expected) / (found.sum() + expected.sum()) >= 0.9999


def test_a_file_of_one_slice_is_read_as_nnunet_reads_it(volume, tmp_path):
    model = write_model(tmp_path / "model", dimensions=2)
    image = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj)[:, :, 9], np.diag([-1.3, 0.9, 1, 1])), image)
    run(job(model, [{"name": "a", "images": [str(image)], "output": str(tmp_path / "a.nii.gz")}]))
    assert labels_of(tmp_path / "a.nii.gz").shape == (24, 20)
    assert np.array_equal(labels_of(tmp_path / "a.nii.gz"), stock_labels(model, [image])[..., 0])


def test_an_image_gets_the_same_labels_however_its_axes_are_stored(volume, tmp_path):
    model = write_model(tmp_path / "model", orientation="RPI")
    codes = ("RPI", "AIL", "LPI", "SAR", "PSL")
    images = [stored(volume, code, tmp_path / f"{code}.nii.gz") for code in codes]
    done = run_mreg("predict", model, *images, "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / image.name) for image in images]
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == list(codes)
    results = [nib.load(path) for path in done.stdout.split()]
    expected = np.asarray(nib.as_closest_canonical(results[0]).dataobj)
    assert 0.05 < expected.mean() < 0.95
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(np.asarray(nib.as_closest_canonical(result).dataobj), expected)
        assert np.array_equal(nib.load(image).affine, result.affine)


@pytest.mark.parametrize("name", ["sub-errsm30/anat/sub-errsm30_T2w", "sub-unf05/anat/sub-unf05_flip-1_mt-on_MTS"])
def test_real_files_of_other_orientations_give_what_stock_nnunet_gives_once_reoriented(test_data, tmp_path, name):
    source = nib.load(test_data / "bids_sc" / f"{name}.nii.gz").slicer[8:40, 10:40, :24]
    nib.save(source, tmp_path / "image.nii.gz")
    model = write_model(tmp_path / "model", orientation="RPI")
    run(job(model, [{"name": "a", "images": [str(tmp_path / "image.nii.gz")], "output": str(tmp_path / "a.nii")}]))
    expected = stock_labels(model, [stored(source, "RPI", tmp_path / "turned.nii.gz")])
    way = Reorientation.to("RPI", source.affine)
    assert np.array_equal(way.apply(labels_of(tmp_path / "a.nii")), expected)


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (1, 4), (0, 0)])
def test_the_geometry_of_the_image_is_restored_to_the_last_bit(volume, tmp_path, qform, sform):
    image = nib.Nifti1Image(np.asarray(volume.dataobj), None, volume.header)
    image.set_sform(volume.affine, sform)
    other = volume.affine.copy()
    other[0, 3] += 7
    image.set_qform(other, qform)
    nib.save(image, tmp_path / "image.nii.gz")
    model = write_model(tmp_path / "model")
    run(job(model, [{"name": "a", "images": [str(tmp_path / "image.nii.gz")], "output": str(tmp_path / "a.nii.gz")}]))
    before, after = nib.load(tmp_path / "image.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    assert after.get_data_dtype() == np.uint8
    assert after.shape == before.shape
    assert np.array_equal(before.affine, after.affine)
    for field in (
        "qform_code", "sform_code", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d",
        "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units", "dim",
    ):  # fmt: skip
        assert np.array_equal(before.header[field], after.header[field], equal_nan=True), field
    assert after.header["descrip"] == b""  # free text may name a person


def test_the_same_prediction_gives_the_same_bytes(volume, tmp_path):
    model = write_model(tmp_path / "model")
    image = stored(volume, "LPI", tmp_path / "image.nii.gz")
    outs = [tmp_path / "one" / "a.nii.gz", tmp_path / "two" / "a.nii.gz"]
    for out in outs:
        run(job(model, [{"name": "a", "images": [str(image)], "output": str(out)}]))
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_scaled_integers_and_a_fourth_axis_of_one_are_read(volume, tmp_path):
    model = write_model(tmp_path / "model")
    scaled = nib.Nifti1Image(np.asarray(volume.dataobj)[..., None], volume.affine)
    scaled.header.set_slope_inter(0.25, -3)
    nib.save(scaled, tmp_path / "scaled.nii.gz")
    nib.save(nib.Nifti1Image(scaled.get_fdata()[..., 0].astype(np.float32), volume.affine), tmp_path / "plain.nii.gz")
    cases = [
        {"name": name, "images": [str(tmp_path / f"{name}.nii.gz")], "output": str(tmp_path / f"out-{name}.nii.gz")}
        for name in ("scaled", "plain")
    ]
    run(job(model, cases))
    one, other = (labels_of(tmp_path / f"out-{name}.nii.gz") for name in ("scaled", "plain"))
    assert one.shape == (*other.shape, 1)
    assert np.array_equal(one[..., 0], other)


def test_a_model_without_orientation_is_taken_for_lpi_with_a_warning(volume, tmp_path, capfd):
    model = write_model(tmp_path / "model", orientation="LPI")
    image = stored(volume, "AIL", tmp_path / "image.nii.gz")
    for out in ("said", "unsaid"):
        run(job(model, [{"name": "a", "images": [str(image)], "output": str(tmp_path / f"{out}.nii.gz")}]))
        text = (model / "dataset.json").read_text()
        (model / "dataset.json").write_text(text.replace("image_orientation", "orientation"))
    assert np.array_equal(labels_of(tmp_path / "said.nii.gz"), labels_of(tmp_path / "unsaid.nii.gz"))
    assert "has no image_orientation: LPI is assumed" in capfd.readouterr().err


def spoiled(volume: nib.Nifti1Image, how: str, path: Path) -> Path:
    """Write an image with one fault."""
    data = np.asarray(volume.dataobj).astype(np.float32)
    match how:
        case "4D":
            nib.save(nib.Nifti1Image(np.stack([data, data], -1), volume.affine), path)
        case "NaN":
            data[3, 4, 5] = np.nan
            nib.save(nib.Nifti1Image(data, volume.affine), path)
        case "cut short":
            nib.save(nib.Nifti1Image(data, volume.affine), path)
            path.write_bytes(path.read_bytes()[:-2000])
        case "voxels missing":
            raw = nib.Nifti1Image(data, volume.affine).to_bytes()
            path.write_bytes(gzip.compress(raw[:-500]))
        case "text":
            path.write_text("not an image")
        case "colours":
            rgb = np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
            nib.save(nib.Nifti1Image(rgb, volume.affine), path)
        case "flat":
            image = nib.Nifti1Image(data, volume.affine)
            image.header["pixdim"][3] = 0
            path.write_bytes(gzip.compress(image.to_bytes()))
        case "other grid":
            nib.save(nib.Nifti1Image(data[1:], volume.affine), path)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no such file"),
        ("4D", r"4D image of shape \(24, 20, 18, 2\)"),
        ("NaN", "1 of 8640 voxels are NaN"),
        ("cut short", "cannot be read"),
        ("voxels missing", "cannot be read"),
        ("text", "not a readable NIfTI"),
        ("colours", "expected plain numbers"),
        ("flat", "contradicts itself: voxel size"),
    ],
)
def test_a_bad_image_is_one_error_that_names_it_and_leaves_nothing(volume, tmp_path, how, message):
    model = write_model(tmp_path / "model")
    path = spoiled(volume, how, tmp_path / "bad.nii.gz")
    with pytest.raises(TrainingError, match=message) as caught:
        run(job(model, [{"name": "a", "images": [str(path)], "output": str(tmp_path / "out" / "a.nii.gz")}]))
    assert str(path) in caught.value.message
    assert not (tmp_path / "out").exists()


def test_channels_on_different_grids_are_refused_by_name(volume, tmp_path):
    model = write_model(tmp_path / "model", channels=2)
    good = stored(volume, "RPI", tmp_path / "good.nii.gz")
    other = spoiled(volume, "other grid", tmp_path / "other.nii.gz")
    with pytest.raises(TrainingError, match=r"other\.nii\.gz: not on the grid of .*good\.nii\.gz"):
        run(job(model, [{"name": "a", "images": [str(good), str(other)]}]))


def test_the_command_ends_with_one_error_and_status_1_for_a_truncated_image(volume, tmp_path):
    model = write_model(tmp_path / "model")
    good = stored(volume, "RPI", tmp_path / "good.nii.gz")
    bad = spoiled(volume, "cut short", tmp_path / "bad.nii.gz")
    done = run_mreg("predict", model, good, bad, "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("error:") == 1
    assert f"error: {bad}: the voxels cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


def test_a_device_that_is_not_there_is_one_error(volume, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = write_model(tmp_path / "model")
    image = stored(volume, "RPI", tmp_path / "image.nii.gz")
    with pytest.raises(TrainingError, match="'cuda' was asked for"):
        run(job(model, [{"name": "a", "images": [str(image)]}], device="cuda"))
