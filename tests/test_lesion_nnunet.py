"""A lesion model that SCT can run: nnU-Net on images cropped around the cord, from the data to its release."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import sct_reference
from command import run_mreg
from lesion_data import take_cases

from registry.archive import build
from registry.archive_members import crop_metadata_of
from registry.cropping import call, crop_dataset
from registry.errors import ConflictError, MregError
from registry.files import write_json
from registry.inference import evaluate
from registry.margins import Margins
from registry.model_toml import find_repo
from registry.runs import Run, latest_run
from trainers.core.errors import TrainingError
from trainers.data.cord_box import cord_box, detected_box, widened
from trainers.data.grid import Grid
from trainers.data.orientation import Reorientation
from trainers.segmentation.cropping import Cropping, cropped, run

DATASET, TAG = "Dataset510_Lesions", "r20261121"
CASES = ("sub-errsm11_chunk-2_T2w", "sub-errsm18_chunk-2_T2w", "sub-errsm21_chunk-3_T2w")
PADS = {"superior": 12.0, "inferior": 5.0, "left": 9.0, "right": 4.0, "anterior": 3.0, "posterior": 7.5}
MODEL_TOML = """\
[model]
name = "model_seg_lesion_t2"

[data]
dataset = "data/raw/Dataset510_Lesions"

[train]
recipe = "lesion"
device = "cpu"
checkpoint_minutes = 0
pads_mm = [12, 5, 9, 4, 3, 7.5]

[train.nnunet]
configuration = "2d"
patch_size = [32, 32]
features = [4, 8, 8]
batch_size = 2
epochs = 1
iterations = 4
val_iterations = 1
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Path:
    """Return a repo of recipe lesion in which nnU-Net was trained on three real cases."""
    repo, source = tmp_path_factory.mktemp("lesion") / "repo", test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
    dataset = repo / "data" / "raw" / DATASET
    take_cases(source, dataset, CASES)
    (repo / "model.toml").write_text(MODEL_TOML)
    done = run_mreg("train", "--as", "nnunet", "--json", cwd=repo, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trained"] == [0]
    return repo


def test_the_cropped_dataset_is_a_part_of_the_whole_one(repo: Path) -> None:
    (folder,) = (repo / "data" / "cropped").glob(f"*/{DATASET}")
    whole = repo / "data" / "raw" / DATASET
    crops = json.loads((folder / "crops.json").read_text())
    assert sorted(crops) == sorted(CASES)
    for case in CASES:
        for kind, name in (("imagesTr", f"{case}_0000.nii.gz"), ("labelsTr", f"{case}.nii.gz")):
            cut, image = nib.load(folder / kind / name), nib.load(whole / kind / name)
            start = np.rint(np.linalg.inv(image.affine) @ cut.affine)[:3, 3].astype(int)
            assert start.tolist() == crops[case]["start"]
            box = tuple(slice(a, a + n) for a, n in zip(start, cut.shape, strict=True))
            assert np.array_equal(np.asarray(image.dataobj)[box], np.asarray(cut.dataobj))
            assert np.array_equal(cut.header.get_zooms(), image.header.get_zooms())
            if kind == "labelsTr":  # nothing of cord or lesion is outside
                assert np.count_nonzero(cut.dataobj) == np.count_nonzero(image.dataobj)
                assert crops[case]["lost"] == ""
    assert (folder / "splits_final.json").read_bytes() == (whole / "splits_final.json").read_bytes()
    said = json.loads((folder / "crop_metadata.json").read_text())
    assert said == {f"pad_{face}": mm for face, mm in PADS.items()} | {"crop_source": "label", "cord_label": "sc"}


def test_an_archive_gives_in_sct_what_it_gives_here(mreg, repo: Path, tmp_path: Path) -> None:
    """On an image in another orientation than the training's, with six different margins."""
    working = find_repo(repo)
    package = build(latest_run(working.runs), working.name, TAG, tmp_path / "dist", repo=working)
    checked = mreg("check", package.archive)
    assert checked.exit_code == 0, checked.output
    assert "crop_metadata" not in checked.output
    dataset = repo / "data" / "raw" / DATASET
    image = nib.load(dataset / "imagesTr" / f"{CASES[1]}_0000.nii.gz")
    label = nib.load(dataset / "labelsTr" / f"{CASES[1]}.nii.gz")
    cord = nib.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.uint8), label.affine)
    image, cord = (sct_reference.reoriented(volume, ("L", "A", "S")) for volume in (image, cord))
    nib.save(image, tmp_path / "scan.nii.gz")
    nib.save(cord, tmp_path / "cord.nii.gz")
    out = tmp_path / "out"
    arguments = (package.archive, tmp_path / "scan.nii.gz", "--cord", tmp_path / "cord.nii.gz", "-o", out)
    cache = {"MREG_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = run_mreg("predict", *arguments, "--precision", "native", cwd=tmp_path, **cache)
    assert done.returncode == 0, done.stderr
    ours = nib.load(out / "scan.nii.gz")
    model = sct_reference.install(package.archive, tmp_path / "sct")
    labels, files = sct_reference.segment(model, image, cord)
    assert list(files) == ["_sc_seg", "_lesion_seg"]
    assert np.array_equal(ours.affine, image.affine)
    found = np.asarray(ours.dataobj)
    assert 0 < np.count_nonzero(labels) < labels.size
    assert np.count_nonzero(found != labels) <= 2  # sums in another order
    box = sct_reference.bounding_box(image, cord, sct_reference.margins(model))
    outside = np.ones(labels.shape, dtype=bool)
    outside[tuple(box)] = False
    assert outside.any()
    assert not found[outside].any()


def test_it_is_measured_in_whole_images(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.segmentation import predict

    monkeypatch.setattr("registry.workers.call", lambda _, job: predict.run(job))  # in this process: it is here already
    dataset = repo / "data" / "raw" / DATASET
    scores = evaluate(str(latest_run(repo / "runs").path), dataset)["cases"][CASES[2]]
    label = nib.load(dataset / "labelsTr" / f"{CASES[2]}.nii.gz")
    ml = np.count_nonzero(label.dataobj) * np.prod(label.header.get_zooms()) / 1000
    assert scores["sc"]["reference_ml"] == pytest.approx(ml, rel=1e-3)


def test_wrong_words_are_refused(mreg, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, dataset = next((repo / "runs").iterdir()), repo / "data" / "raw" / DATASET
    image = dataset / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    (tmp_path / "line.csv").write_text("x_mm,y_mm,z_mm\n0,0,0\n")
    crop = ("data", "crop", dataset, tmp_path, "--dataset-id", "7")
    monkeypatch.chdir(repo)
    for arguments, word in (
        (("predict", run, image, "-o", tmp_path, "--cord", tmp_path / "line.csv"), "a centreline has no width"),
        (("predict", run, image, "-o", tmp_path, "--cord", image, "--cord-model", "x@y"), "name the cord twice"),
        (("train", "--as", "nnunet", "--set", "cord_label=canal"), "no label 'canal'; there are: background, sc"),
        (("train", "--as", "nnunet", "--launcher", "slurm"), "--as is for --launcher local"),
        ((*crop, "--cord-label", "canal"), "no label 'canal'"),
        ((*crop, "--cord", tmp_path / "gone"), "gone: no such folder"),
        ((*crop, "--cord", tmp_path), "no cord of case sub-errsm11_chunk-2_T2w"),
        ((*crop, "--cord", tmp_path, "--detector"), "name the cord twice"),
        (("data", "crop", dataset, dataset.parent, "--dataset-id", "510"), "is the dataset itself"),
    ):
        done = mreg(*arguments)
        assert done.exit_code in (1, 2), arguments
        assert word in done.stderr
    assert not list(tmp_path.glob("Dataset*"))


# ---- cropped datasets


def phantom(folder: Path) -> dict[str, Any]:
    """Write a raw dataset of one case, a cord along z with a lesion far to its left; return the job of a crop."""
    dataset = folder / "Dataset001_Phantom"
    label = np.zeros((20, 20, 30), dtype=np.uint8)
    label[8:12, 8:12, 5:25] = 1
    label[18, 9:11, 10:12] = 2
    affine = np.diag([-1.0, 1, 1, 1])
    for kind, name, data in (("images", "a_0000", label.astype(np.float32) + 7), ("labels", "a", label)):
        (dataset / f"{kind}Tr").mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, affine), dataset / f"{kind}Tr" / f"{name}.nii.gz")
    document = {"labels": {"background": 0, "sc": 1, "lesion": 2}, "channel_names": {"0": "T2w"}}
    return {
        "kind": "crop", "dataset": str(dataset), "target": str(folder / "Dataset002_Phantom"),
        "dataset_json": {**document, "file_ending": ".nii.gz", "training": ["/x"]}, "cord_values": [1],
        "pads": dict.fromkeys(PADS, 2.0), "about": {"crop_source": "label"},
    }  # fmt: skip


def test_what_a_box_leaves_out_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(phantom(tmp_path))
    said = "4 of 324 voxels are outside: 5.0 mm left"
    assert answer["lost"] == {"a": said}
    assert f"warning: a: labels outside of the box: {said}" in capsys.readouterr().err
    target = tmp_path / "Dataset002_Phantom"
    assert json.loads((target / "crops.json").read_text())["a"] == {
        "kind": "box", "whole": [20, 20, 30], "start": [6, 6, 3], "shape": [8, 8, 24], "lost": said,
    }  # fmt: skip
    document = json.loads((target / "dataset.json").read_text())
    assert (document["numTraining"], "training" in document) == (1, False)
    assert nib.load(target / "labelsTr" / "a.nii.gz").shape == (8, 8, 24)


def test_masks_on_another_grid_and_the_detector_say_where_the_cord_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = phantom(tmp_path)
    fine = np.zeros((40, 40, 60), dtype=np.uint8)  # 0.5 mm, of the same field of view
    fine[16:24, 16:24, 10:50] = 1
    affine = np.diag([-0.5, 0.5, 0.5, 1])
    affine[:3, 3] = 0.25, -0.25, -0.25
    nib.save(nib.Nifti1Image(fine, affine), tmp_path / "cord.nii.gz")
    run({**job, "cord_values": None, "cords": {"a": str(tmp_path / "cord.nii.gz")}})
    start = json.loads((tmp_path / "Dataset002_Phantom" / "crops.json").read_text())["a"]["start"]
    assert start == [6, 6, 3]
    with pytest.raises(TrainingError, match="no cord mask"):
        run({**job, "cord_values": None, "target": str(tmp_path / "Dataset003_None")})
    assert not list(tmp_path.glob("*Dataset003*"))
    box = {"xmin": 5, "xmax": 14, "ymin": 0, "ymax": 19, "zmin": 0, "zmax": 29}
    package = types.ModuleType("sc_crop")
    package.detect, package.__version__ = (lambda *_, **__: box), "0.12.1"
    monkeypatch.setitem(sys.modules, "sc_crop", package)
    run({**job, "detector": True, "about": {"crop_source": "detector"}, "target": str(tmp_path / "Dataset004_Found")})
    said = json.loads((tmp_path / "Dataset004_Found" / "crop_metadata.json").read_text())
    assert (said["sc_crop_version"], said["pad_left"], said["crop_source"]) == ("0.12.1", 2.0, "detector")
    assert nib.load(tmp_path / "Dataset004_Found" / "imagesTr" / "a_0000.nii.gz").shape == (10, 20, 30)


def test_cords_that_are_no_label_lie_beside_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of a crop and that of an evaluation name the same files."""
    jobs: list[dict[str, Any]] = []
    monkeypatch.setattr("registry.workers.call", lambda _, job: jobs.append(job) or {"lost": {}})
    dataset = Path(phantom(tmp_path)["dataset"])
    document = {"labels": {"background": 0, "lesion": 2}, "channel_names": {"0": "T2w"}, "numTraining": 1}
    write_json(dataset / "dataset.json", document | {"file_ending": ".nii.gz", "image_orientation": "RPI"})
    (dataset / "cords").mkdir()
    (dataset / "cords" / "a.csv").touch()
    with pytest.raises(MregError, match="a centreline has no width"):
        crop_dataset(dataset, tmp_path, number=5)
    (dataset / "cords" / "a.csv").rename(dataset / "cords" / "a.nii.gz")
    assert crop_dataset(dataset, tmp_path, number=5).name == "Dataset005_Phantom"
    found = Margins(pads_mm=PADS, source="masks")
    call({"cases": [{"name": "a", "images": ["a.nii.gz"]}], "device": "cpu"}, found, dataset=dataset)
    mask = str(dataset / "cords" / "a.nii.gz")
    assert (jobs[0]["cords"], jobs[0]["about"]) == ({"a": mask}, {"crop_source": "masks"})
    assert (jobs[1]["cases"][0]["cord"], jobs[1]["pads"]) == (mask, PADS)


def test_margins_of_a_repo_that_contradict_the_run_are_refused(tmp_path: Path) -> None:
    said = {f"pad_{face}": mm for face, mm in PADS.items()}
    trained, root = Run(tmp_path / "run", {}), tmp_path
    assert crop_metadata_of(trained, root, cropped=False) is None
    write_json(trained.path / "crop_metadata.json", said)
    packed = crop_metadata_of(trained, root, cropped=False)
    assert packed is not None
    assert json.loads(packed) == said
    write_json(root / "crop_metadata.json", said | {"crop_source": "mask"})
    assert crop_metadata_of(trained, root, cropped=True) == packed
    write_json(root / "crop_metadata.json", said | {"pad_left": 10})
    with pytest.raises(ConflictError, match="other margins than"):
        crop_metadata_of(trained, root, cropped=True)
    write_json(trained.path / "crop_metadata.json", said | {"pad_left": "10 mm", "pad_right": True})
    with pytest.raises(MregError, match="pad_left is '10 mm', not a length in mm; pad_right is True"):
        crop_metadata_of(trained, None, cropped=False)


# ---- boxes


@pytest.mark.parametrize("code", ["RPI", "AIL", "LPS", "SRA", "PSR"])
def test_a_box_keeps_the_same_voxels_in_every_orientation(code: str) -> None:
    grid = Grid((30, 40, 50), np.diag([-1.0, 0.8, 0.7, 1.0]))  # RPI
    mask = np.zeros(grid.shape, dtype=bool)
    mask[10:14, 20:23, 15:35] = True
    box = cord_box(mask, grid, grid, PADS, "mask")
    # right 4, left 9 in 1 mm; posterior 7.5, anterior 3 in 0.8 mm; inferior 5, superior 12 in 0.7 mm
    assert box.start == (6, 20 - 10, 15 - 8)
    assert box.shape == (4 + 4 + 9, 3 + 10 + 4, min(50, 35 + 18) - 7)
    other, _ = grid.oriented(code)
    way = Reorientation.to(code, grid.affine)
    turned = cord_box(way.apply(mask), other, other, PADS, "mask")
    kept = turned.undo(np.ones(turned.shape, dtype=np.uint8))
    assert np.array_equal(way.undo(kept), box.undo(np.ones(box.shape, dtype=np.uint8)))
    # a mask on another grid, and with a speck far away, gives the same box
    mask[0, 0, 0] = True
    assert cord_box(way.apply(mask), other, grid, PADS, "mask") == box


def test_a_mask_that_is_empty_or_elsewhere_is_refused() -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    with pytest.raises(TrainingError, match="the cord mask is empty"):
        cord_box(np.zeros(grid.shape, dtype=bool), grid, grid, PADS, "mask")
    with pytest.raises(TrainingError, match="outside of the image"):
        cord_box(np.ones(grid.shape, dtype=bool), Grid((8, 8, 8), np.eye(4) + 90 * np.eye(4, k=3)), grid, PADS, "mask")


def test_scts_own_detector_is_asked_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package sc_crop, with the call that it documents."""
    path, asked = tmp_path / "scan.nii.gz", {}
    nib.save(nib.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.diag([-1.0, 1, 2, 1])), path)
    box = {"xmin": 1, "xmax": 2, "ymin": 0, "ymax": 4, "zmin": 2, "zmax": 5}
    package = types.SimpleNamespace(detect=lambda image, **pads: asked.update(pads, image=image) or box)
    monkeypatch.setattr("importlib.import_module", lambda name: {"sc_crop": package}[name])
    found = detected_box(path, PADS)
    assert asked == {f"pad_{face}": mm for face, mm in PADS.items()} | {"image": str(path)}
    assert (found.start, found.shape) == ((1, 0, 2), (2, 5, 4))
    with cropped((path,), Cropping(pads_mm=PADS)) as ((file,), used):
        cut = nib.load(file)
        assert used == found
        assert np.array_equal(np.asarray(cut.dataobj), np.arange(120).reshape(4, 5, 6)[1:3, :, 2:6])
        assert np.allclose(cut.affine[:3, 3], (-1, 0, 4))
    assert not file.exists()
    box["zmax"] = 6
    with pytest.raises(TrainingError, match="a box beyond the image"):
        detected_box(path, PADS)
    package.detect = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no spinal cord"))
    with pytest.raises(TrainingError, match="finds no cord: no spinal cord"):
        detected_box(path, PADS)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "sc_crop", None)
    with pytest.raises(TrainingError, match="no cord is given, and sc_crop is not installed"):
        detected_box(path, PADS)


def test_margins_are_rounded_up_to_whole_voxels() -> None:
    grid = Grid((100, 100, 100), np.diag([-0.5, 0.5, 0.5, 1.0]))
    pads = dict.fromkeys(PADS, 15.0) | {"left": 15.1}
    found = widened((50, 50, 50), (50, 50, 50), grid, pads)
    assert found.start == (20, 20, 20)
    assert found.shape == (30 + 1 + 31, 61, 61)
