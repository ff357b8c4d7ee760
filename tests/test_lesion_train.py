"""The lesion recipe from a table to predictions, on phantoms: it learns, resumes, and sees the same in both phases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lesion_data import phantom, training_job, write_table

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
        "model": str(trained / "run"), "device": "cpu", "mirror": True, "half": True,
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
    assert answer["files"] == [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")]
    with pytest.raises(TrainingError, match="no cord mask and no centreline"):
        predict.run({"model": str(trained / "run"), "device": "cpu", "mirror": False, "half": False,
                     "cases": [{"name": "x", "images": [str(case.image)], "folds": ["0"]}]})  # fmt: skip


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
    train.run(training_job(table, tmp_path, weights=str(weights), epochs=1, iterations=1))
    assert "starts from checkpoint_final.pth: " in capsys.readouterr().err
    with pytest.raises(TrainingError, match="no tensor fits"):
        begin(torch.nn.Linear(2, 2), LesionSettings.model_validate({}), weights)


def test_a_training_starts_from_a_pretrained_encoder_of_its_own_size_only(tmp_path: Path) -> None:
    from trainers.nets.resenc import ResEncConfig, unet
    from trainers.pretraining.checkpoint import downstream

    size = {"features": [4, 8, 8], "blocks": [1, 1, 1], "depth": 3, "net": "resenc"}
    settings = LesionSettings.model_validate(size)
    config = ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 1))
    plan = {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet", "arch_kwargs": config.keywords(),
            "arch_kwargs_requiring_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [16, 16, 16]}}},
        "pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [16, 16, 16],
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }  # fmt: skip
    source = unet(config)
    assert type(downstream(plan)) is type(source)
    torch.save(
        {"network_weights": source.state_dict(), "nnssl_adaptation_plan": plan, "trainer_name": "x", "init_args": {}},
        tmp_path / "encoder.pth",
    )
    module = build(settings)
    assert begin(module, settings, tmp_path / "encoder.pth")
    for key, value in module.state_dict().items():
        if key.startswith("encoder."):
            assert torch.equal(value, source.state_dict()[key]), key
    for other in ({"net": "unet"}, {**size, "features": [4, 8, 16]}):
        settings = LesionSettings.model_validate(other)
        with pytest.raises(TrainingError, match="another net than"):
            begin(build(settings), settings, tmp_path / "encoder.pth")


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
