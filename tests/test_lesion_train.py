"""The lesion recipe from a table to predictions, on phantoms: it learns, resumes, and sees the same in both phases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lesion_data import phantom, training_job, write_table
from test_finetuning import SMALL, checkpoint

from trainers.core.errors import TrainingError
from trainers.data.store import open_volume
from trainers.lesion import predict, train
from trainers.lesion.chain import find_line, prepare
from trainers.lesion.config import LesionSettings
from trainers.lesion.index import read_index
from trainers.lesion.network import LesionNet, begin, build, load, save, write_plans
from trainers.lesion.sliding import predict_volume, starts
from trainers.lesion.task import dice_loss, sampling


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("lesions"))


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short training: run and cache."""
    folder = tmp_path_factory.mktemp("trained")
    answer = train.run(training_job(table, folder))
    assert answer == {"trained": [0], "done_before": [], "stopped": ""}
    return folder


def test_a_short_training_finds_the_phantoms_lesions(trained: Path) -> None:
    found = json.loads((trained / "run" / "fold_0" / "validation" / "summary.json").read_text())
    assert sorted(found["cases"]) == ["sub-04_T2w_image", "sub-05_T2w_image"]
    with_lesion, without = found["cases"]["sub-04_T2w_image"], found["cases"]["sub-05_T2w_image"]
    assert with_lesion["dice"] >= 0.8
    assert with_lesion["lesion_sensitivity"] == with_lesion["lesion_precision"] == 1
    assert with_lesion["false_positive_ml"] is None
    assert without["dice"] is None or without["dice"] == 0
    assert without["reference_lesions"] == 0
    assert without["false_positive_ml"] < 0.02
    assert found["dice_by_threshold"][f"{found['threshold']:g}"] == max(found["dice_by_threshold"].values())
    sheets = sorted(path.name for path in (trained / "cache").rglob("sheets/*.png"))
    assert sheets == ["sub-00_T2w_image.png", "sub-03_T2w_image.png"]
    picture = (trained / "run" / "fold_0" / "validation" / "predictions.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in (trained / "run" / "fold_0" / "metrics.jsonl").read_text().splitlines()]
    assert [("dice" in line, "false_positive_ml" in line) for line in lines].count((True, True)) == 2
    assert train.run(training_job(trained, trained) | {"dataset": _dataset(trained)})["done_before"] == [0]


def _dataset(trained: Path) -> str:
    sidecar = next((trained / "cache").glob("cases-*/*.json"))
    assert json.loads(sidecar.read_text())["lesion"]["lost"]["voxels"] == 0
    return str(next(trained.parent.glob("lesions*/index.csv")))


def test_training_and_prediction_see_the_same_voxels_to_the_last_bit(table: Path, trained: Path) -> None:
    net = load(trained / "run", 0, torch.device("cpu"))
    stored = {path.name[:-5]: path for path in (trained / "cache").rglob("*.b2nd") if "_seg" not in path.name}
    assert len(stored) == 4
    for case in read_index(table):
        if case.name not in stored:
            continue
        prepared = prepare(case, net.settings.geometry, find_line(case, net.settings.geometry))
        seen = net.standard.apply(prepared.image, prepared.tissue, case.contrast)
        assert np.array_equal(open_volume(stored[case.name])[0], seen.transpose(2, 1, 0))


def test_predictions_lie_on_their_images_and_are_measured(table: Path, trained: Path, tmp_path: Path) -> None:
    case = read_index(table)[4]
    turned = nib.as_closest_canonical(nib.load(case.image))  # another orientation, the same lesion
    nib.save(turned, tmp_path / "sub-04_T2w.nii.gz")
    nib.save(nib.as_closest_canonical(nib.load(case.lesion)), tmp_path / "lesion.nii.gz")
    entry = {"name": "sub-04_T2w", "folds": ["0"], "cord": str(case.cord)}
    answer = predict.run({
        "model": str(trained / "run"), "device": "cpu", "mirror": True, "half": True, "figure": str(tmp_path / "a.png"),
        "cases": [
            {**entry, "images": [str(case.image)], "output": str(tmp_path / "a.nii.gz"), "reference": str(case.lesion)},
            {**entry, "name": "sub-04b_T2w", "images": [str(tmp_path / "sub-04_T2w.nii.gz")],
             "output": str(tmp_path / "b.nii.gz"), "reference": str(tmp_path / "lesion.nii.gz")},
        ],
    })  # fmt: skip
    one, other = (nib.load(tmp_path / f"{name}.nii.gz") for name in "ab")
    assert np.array_equal(one.affine, nib.load(case.image).affine)
    assert np.array_equal(other.affine, turned.affine)
    assert np.asarray(one.dataobj).any()
    assert np.array_equal(np.asarray(nib.as_closest_canonical(one).dataobj), np.asarray(other.dataobj))
    assert answer["cases"]["sub-04_T2w"] == answer["cases"]["sub-04b_T2w"]
    assert answer["mean"]["lesion"]["lesion_f1"] == 1
    assert answer["summary"]["lesion_f1"] == {"median": 1, "iqr": [1, 1], "cases": 2}
    assert answer["threshold"] == json.loads((trained / "run" / "plans.json").read_text())["folds"]["0"]["threshold"]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert answer["files"] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")]
    with pytest.raises(TrainingError, match="no cord mask and no centreline"):
        predict.run({"model": str(trained / "run"), "device": "cpu", "mirror": False, "half": False,
                     "cases": [{"name": "x", "images": [str(case.image)], "folds": ["0"]}]})  # fmt: skip


def test_the_threshold_that_is_stored_decides_and_zero_cases_are_shown_on_request(table, trained, tmp_path) -> None:
    run, case = tmp_path / "run", read_index(table)[4]
    shutil.copytree(trained / "run", run)
    plans = json.loads((run / "plans.json").read_text())
    plans["settings"]["shown"] = 0
    entry = {"name": case.name, "images": [str(case.image)], "cord": str(case.cord), "reference": str(case.lesion)}
    job = {"model": str(run), "device": "cpu", "mirror": False, "half": False, "figure": str(tmp_path / "a.png")}
    (tmp_path / "a.png").touch()  # of an earlier evaluation
    volumes = []
    for threshold in (0.01, 0.5, 0.99):
        plans["folds"]["0"]["threshold"] = threshold
        (run / "plans.json").write_text(json.dumps(plans))
        answer = predict.run({**job, "cases": [{**entry, "folds": ["0"]}]})
        assert answer["threshold"] == threshold
        volumes.append(answer["cases"][case.name]["lesion"]["predicted_ml"])
    assert volumes[0] > volumes[1] > volumes[2]
    assert not (tmp_path / "a.png").exists()


THICK, NARROW = (slice(None), slice(None), slice(7, None, 15)), (slice(16, 32), slice(None), slice(None))


def test_thick_slices_and_narrow_images_are_predicted_on_their_own_grid(table, trained, tmp_path) -> None:
    case, cases = read_index(table)[4], []
    for name, part, spacing in (("thick", THICK, (0.5, 0.5, 7.5)), ("narrow", NARROW, (0.5, 0.5, 0.5))):
        for kind in ("image", "cord", "lesion"):
            data = np.asarray(nib.load(getattr(case, kind)).dataobj)[part]
            nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1])), tmp_path / f"{name}_{kind}.nii.gz")
        files = {"images": [str(tmp_path / f"{name}_image.nii.gz")], "cord": str(tmp_path / f"{name}_cord.nii.gz")}
        reference, output = (str(tmp_path / f"{name}_{kind}.nii.gz") for kind in ("lesion", "found"))
        cases.append({"name": name, "folds": ["0"], **files, "reference": reference, "output": output})
    job = {"model": str(trained / "run"), "device": "cpu", "mirror": False, "half": False}
    answer = predict.run({**job, "cases": cases})
    for name, shape in (("thick", (48, 44, 3)), ("narrow", (16, 44, 40))):
        assert nib.load(tmp_path / f"{name}_found.nii.gz").shape == shape
    assert answer["cases"]["narrow"]["lesion"]["dice"] > 0.5
    (tmp_path / "line.csv").write_text("x_mm,y_mm,z_mm\n900,900,900\n900,900,950\n")
    with pytest.raises(TrainingError, match=r"narrow_image\.nii\.gz: the centreline \(line\.csv\) lies outside"):
        predict.run({**job, "cases": [{**cases[1], "cord": str(tmp_path / "line.csv")}]})
    for shape, words in (((48, 44), "a 2D image"), ((48, 44, 4, 3), "4D image")):
        nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.float32), np.eye(4)), tmp_path / "odd.nii.gz")
        with pytest.raises(TrainingError, match=rf"odd\.nii\.gz: .*{words}"):
            predict.run({**job, "cases": [{**cases[1], "images": [str(tmp_path / "odd.nii.gz")]}]})


@pytest.mark.long
def test_stopped_it_goes_on_and_ends_with_the_same_weights(table: Path, trained: Path, tmp_path: Path) -> None:
    stopped = 0
    for _ in range(40):
        answer = train.run(training_job(table, tmp_path, max_minutes=0.025))
        if not answer["stopped"]:
            break
        stopped += 1
    assert stopped
    states = [
        torch.load(folder / "run" / "fold_0" / "checkpoint_final.pth", weights_only=True)
        for folder in (trained, tmp_path)
    ]
    for key, value in states[0]["network_weights"].items():
        assert torch.equal(value, states[1]["network_weights"][key]), key
    plans = [(folder / "run" / "plans.json").read_text() for folder in (trained, tmp_path)]
    assert plans[0] == plans[1]


def test_a_training_starts_from_another_ones_weights(table: Path, trained: Path, tmp_path: Path, capsys) -> None:
    weights = trained / "run" / "fold_0" / "checkpoint_final.pth"
    train.run(training_job(table, tmp_path, pretrained=str(weights), epochs=1, iterations=1))
    assert "starts from checkpoint_final.pth: " in capsys.readouterr().err
    with pytest.raises(TrainingError, match="no tensor fits"):
        begin(torch.nn.Linear(2, 2), LesionSettings.model_validate({}), weights)


def test_a_resenc_learns_from_a_pretrained_encoder_and_takes_one_of_its_own_size_only(
    table: Path, tmp_path: Path, capsys
) -> None:
    file = checkpoint(tmp_path, "resenc")
    pretrained = torch.load(file, weights_only=True)["network_weights"]
    net = SMALL["resenc"]
    size = {"net": "resenc", "depth": 3, "features": list(net.features), "blocks": list(net.blocks)}
    settings = LesionSettings.model_validate(size)
    module = build(settings)
    report = begin(module, settings, file)
    assert all(torch.equal(module.state_dict()[key], pretrained[key]) for key in report.used)
    assert {key.split(".")[0] for key in report.new} >= {"decoder"}
    train.run(training_job(table, tmp_path, pretrained=str(file), epochs=1, iterations=5, **size))
    assert "starts from checkpoint_final.pth: " in capsys.readouterr().err
    run = tmp_path / "run"
    assert json.loads((run / "fold_0" / "pretrained.json").read_text())["used"] == list(report.used)
    trained = load(run, 0, torch.device("cpu"))
    assert type(trained.module) is type(module)
    first = report.used[0]
    assert 0 < (trained.module.state_dict()[first] - pretrained[first]).abs().max() < 0.1  # it went on from there
    assert json.loads((run / "fold_0" / "validation" / "summary.json").read_text())["cases"]
    for other, hint in (({"net": "unet"}, "--set depth=3"), ({**size, "features": [4, 8, 16]}, "--set net=resenc")):
        settings = LesionSettings.model_validate(other)
        with pytest.raises(TrainingError, match="another net than") as caught:
            begin(build(settings), settings, file)
        assert hint in caught.value.hint


def test_wrong_splits_and_sets_without_lesions_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fold 3 does not exist"):
        train.run(training_job(table, tmp_path, folds=[3]))
    job = training_job(table, tmp_path) | {"splits": [{"train": ["sub-05_T2w_image"], "val": []}]}
    with pytest.raises(TrainingError, match="no training case has a lesion"):
        train.run(job)
    with pytest.raises(TrainingError, match="names gone, which is no case"):
        train.run(job | {"splits": [{"train": ["gone"], "val": []}]})


def test_folds_hold_out_subjects_and_the_seed_decides_which(table: Path) -> None:
    cases = [type(c)(**{**vars(c), "split": ""}) for c in read_index(table)]
    double = cases + [type(c)(**{**vars(c), "name": f"{c.name}2"}) for c in cases]
    splits = train.make_splits(double, 1)
    assert len(splits) == 5
    for split in splits:
        sides = [{name[:6] for name in split[part]} for part in ("train", "val")]
        assert not sides[0] & sides[1]
        assert len(split["train"]) + len(split["val"]) == 12
    assert splits == train.make_splits(double[::-1], 1)
    assert splits != train.make_splits(double, 2)


def test_patches_cover_the_cord_and_blend_to_what_one_patch_gives() -> None:
    assert starts(110, 48, 0.5) == [0, 21, 41, 62]
    assert starts(48, 48, 0.5) == starts(20, 48, 0.5) == [0]
    settings = LesionSettings.model_validate({"window": 8, "margin": 2, "patch": [16, 8, 8], "depth": 2, "base": 2})
    pointwise = torch.nn.Conv3d(1, 1, 1)  # sees each voxel alone, so patches cannot differ
    image = phantom(1)["image"][:12, :12, :41] / 1000
    found = predict_volume(pointwise, image, settings, torch.device("cpu"), mirror=True)
    with torch.no_grad():
        whole = pointwise(torch.from_numpy(image)[None, None]).sigmoid()[0, 0].numpy()
    assert np.allclose(found[2:-2, 2:-2], whole[2:-2, 2:-2], atol=1e-6)
    assert not found[:2].any()
    assert not found[:, -2:].any()
    short = predict_volume(pointwise, image[:, :, :5], settings, torch.device("cpu"))
    assert np.allclose(short[2:-2, 2:-2], whole[2:-2, 2:-2, :5], atol=1e-6)


def test_the_dice_loss_is_the_published_one() -> None:
    target = torch.zeros(2, 1, 4, 4, 4)
    assert dice_loss(target, target) == -1  # nothing there, nothing predicted
    target[0, 0, :2] = 1
    probability = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    y, p = target.numpy().ravel(), probability.numpy().ravel()
    wanted = -(2 * (y * p).sum() + 1) / (y.sum() + p.sum() + 1)
    assert float(dice_loss(probability, target)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["unet", "resenc"])
def test_nets_come_back_from_disk_as_they_were(tmp_path: Path, name: str) -> None:
    settings = LesionSettings.model_validate({"net": name, "base": 2, "depth": 2, "patch": [16, 48, 48]})
    from trainers.lesion.intensity import Standard

    net = LesionNet(
        module=build(settings).eval(), settings=settings, standard=Standard(scheme="zscore"), threshold=0.35, value=2
    )
    write_plans(tmp_path, settings, 2)
    save(tmp_path, 3, net)
    again = load(tmp_path, 3, torch.device("cpu"))
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.module(image), net.module(image))
    assert (again.threshold, again.value, again.standard, again.settings) == (0.35, 2, net.standard, settings)
    with pytest.raises(TrainingError, match="no net of recipe lesion, fold 0"):
        load(tmp_path, 0, torch.device("cpu"))


def test_patches_of_a_window_may_be_turned_within_its_margin() -> None:
    found = sampling(LesionSettings.model_validate({}))
    assert (found.patch, found.source, found.shift) == ((48, 48, 48), (72, 72, 72), (None, 10, 10))
    assert sampling(LesionSettings.model_validate({"crop": "none"})).shift == ()
