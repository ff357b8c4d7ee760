"""Pre-training from end to end on real images: trained, stopped, resumed, exported, and taken up by another network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from trainers.catalog import RECIPES
from trainers.core.errors import TrainingError
from trainers.core.files import read_json
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping
from trainers.pretraining import train
from trainers.pretraining.checkpoint import (
    adaptation_plan,
    downstream,
    encoder_of,
    in_own_order,
    load,
    take_up,
    verify,
)
from trainers.pretraining.choice import Choice
from trainers.pretraining.config import PAIRS, PretrainingSettings
from trainers.pretraining.cost import count
from trainers.pretraining.images import ImageStore
from trainers.pretraining.methods.mae import MAE
from trainers.pretraining.prepare import Preparation, Prepared, prepare
from trainers.pretraining.task import PretrainingTask

COLLECTION = "Dataset530_SpineSSL"
KEYS = {
    "architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize",
    "key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe",
}  # fmt: skip
QUICK = [("mae", "primus"), ("simclr", "primus")]
REST = [pytest.param(*pair, marks=pytest.mark.long) for pair in PAIRS if pair not in QUICK]


@pytest.fixture(scope="module")
def cache(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """Return the collection's folder of the cache, and what is in it; computed once."""
    folder = tmp_path_factory.mktemp("cache")
    collection = test_data / "nnssl_raw" / COLLECTION
    return folder, prepare(collection, folder, Preparation(threads=2), Progress())


def settings(method: str = "mae", encoder: str = "primus", **more: Any) -> PretrainingSettings:
    return PretrainingSettings.model_validate(
        {"method": method, "encoder": encoder, "profile": "tiny", "device": "cpu", **more}
    )


def job(test_data: Path, cache: Path, run: Path, chosen: PretrainingSettings) -> dict[str, Any]:
    return {
        "dataset": str(test_data / "nnssl_raw" / COLLECTION), "run": str(run), "cache": str(cache),
        "settings": chosen.model_dump(mode="json"), "config": {"dataset": {"hash": "0"}},
    }  # fmt: skip


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@pytest.mark.parametrize(("method", "encoder"), [*QUICK, *REST])
def test_each_pair_runs_from_images_to_an_encoder_that_another_network_takes(
    test_data: Path, cache: tuple[Path, Prepared], tmp_path: Path, method: str, encoder: str
) -> None:
    chosen = settings(method, encoder)
    todo = job(test_data, cache[0], tmp_path, chosen)
    assert train.run(todo) == {"trained": ["all"], "done_before": [], "stopped": ""}
    assert train.run(todo) == {"trained": [], "done_before": ["all"], "stopped": ""}
    found = lines(tmp_path / "fold_all")
    assert [line["epoch"] for line in found] == [0, 1]
    assert all(np.isfinite([line["loss"], line["val_loss"]]).all() for line in found)
    assert found[-1]["skipped"] == 0
    final = tmp_path / "fold_all" / "checkpoint_final.pth"
    assert not (final.parent / "checkpoint_latest.pth").exists()
    checkpoint = load(final)
    assert set(checkpoint.plan) == KEYS
    assert checkpoint.plan == json.loads((tmp_path / "adaptation_plan.json").read_text())
    network = downstream(checkpoint.plan)
    taken = take_up(network, checkpoint.weights, checkpoint.plan)
    assert len(taken) > 20
    own = network.state_dict()
    prefix = "encoder." if checkpoint.plan["key_to_encoder"] == "encoder.eva" else ""
    assert all(torch.equal(own[key], checkpoint.weights[prefix + key]) for key in taken)
    assert {c["type"] for c in checkpoint.citations} == {"Pretraining", "Architecture", "Benchmark"}
    with zipfile.ZipFile(final) as archive:  # random weights hold any four bytes
        (said,) = (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    assert b"sub-" not in said


def test_a_checkpoint_has_the_keys_of_nnssl_and_holds_nothing_that_runs(
    test_data: Path, cache: tuple[Path, Prepared], tmp_path: Path
) -> None:
    train.run(job(test_data, cache[0], tmp_path, settings("mae", "primus", epochs=1, iterations=1)))
    state = torch.load(tmp_path / "fold_all" / "checkpoint_final.pth", weights_only=True)
    assert {
        "network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
        "trainer_name", "nnssl_adaptation_plan", "citations",
    } <= set(state)  # fmt: skip
    assert state["trainer_name"] == "mreg_mae_primus"
    assert state["current_epoch"] == 1
    assert len(state["logging"]["train_losses"]) == 1
    plan = state["nnssl_adaptation_plan"]
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] == [1.0, 1.0, 1.0]
    assert configuration["patch_size"] == [32, 32, 32]
    assert plan["key_to_lpe"] == "eva.pos_embed"
    assert state["mreg"]["method_options"]["mask_ratio"] == 0.75


def trained(cache: tuple[Path, Prepared], folder: Path, chosen: PretrainingSettings, **stop: Any) -> str:
    pair = train.build(chosen)
    plan = adaptation_plan(*pair, cache[1].plans, tiny=True)
    with Stopping(**stop) as stopping:
        return train.train(
            chosen, pair, cache[1], plan, folder, torch.device("cpu"), Progress(), stopping, train.Ranks()
        )


@pytest.mark.parametrize(
    ("method", "encoder"),
    [("mae", "primus"), pytest.param("models_genesis", "resenc", marks=pytest.mark.long)],
)
def test_told_to_end_and_stopped_again_and_again_it_goes_on_as_if_nothing_had_happened(
    test_data: Path, cache: tuple[Path, Prepared], tmp_path: Path, method: str, encoder: str
) -> None:
    chosen = settings(method, encoder, epochs=3, iterations=6, val_iterations=1, checkpoint_minutes=0)
    straight = tmp_path / "straight" / "fold_all"
    train.run(job(test_data, cache[0], straight.parent, chosen))  # sets the number of threads for all that follow
    run, result = tmp_path / "told", tmp_path / "result"
    todo = job(test_data, cache[0], run, chosen) | {"kind": "train", "result": str(result)}
    (tmp_path / "job").write_text(json.dumps(todo))
    process = subprocess.Popen(
        [sys.executable, "-P", str(RECIPES["pretrain"].worker), str(tmp_path / "job")],
        stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    begun, deadline = run / "fold_all" / "metrics.jsonl", time.monotonic() + 60
    while not begun.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=100)
    assert read_json(result)["stopped"] == "SIGTERM"
    assert (run / "fold_all" / "checkpoint_latest.pth").is_file()
    assert len(lines(run / "fold_all")) < 3
    stopped = [trained(cache, run / "fold_all", chosen, minutes=minutes) for minutes in (0, 0.006, None)]
    assert stopped[0].startswith("the time limit")
    assert stopped[-1] == ""
    assert lines(run / "fold_all") == lines(straight)
    first, second = (load(folder / "checkpoint_final.pth") for folder in (straight, run / "fold_all"))
    assert all(torch.equal(first.weights[key], second.weights[key]) for key in first.weights)


def test_steps_without_a_finite_loss_are_left_out_of_weights_and_losses(
    cache: tuple[Path, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = MAE.losses, []

    def losses(self: MAE, module: Any, views: Any) -> dict[str, torch.Tensor]:
        found = whole(self, module, views)
        calls.append(module.training)
        return {"loss": found["loss"] * torch.nan} if calls == [True, True] else found

    monkeypatch.setattr(MAE, "losses", losses)
    assert trained(cache, tmp_path, settings(epochs=1)) == ""
    (line,) = lines(tmp_path)
    assert line["skipped"] == 1
    assert np.isfinite(line["loss"])
    assert all(value.isfinite().all() for value in load(tmp_path / "checkpoint_final.pth").weights.values())


def test_a_training_takes_the_images_that_are_asked_for(
    test_data: Path, cache: tuple[Path, Prepared], capsys: pytest.CaptureFixture[str]
) -> None:
    collection = test_data / "nnssl_raw" / COLLECTION
    chosen = Choice(modalities=("T1w", "T2w"))
    found = prepare(collection, cache[0], Preparation(choice=chosen), Progress())
    assert {name[-3:] for name in (*found.training, *found.validation)} == {"T1w", "T2w"}
    assert set(found.training) < set(cache[1].training)
    assert set(found.validation) < set(cache[1].validation)
    assert "of 14 images are trained on" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="none of the 0 images"):
        prepare(collection, cache[0], Preparation(choice=Choice(modalities=("PET",))), Progress())


@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_full_sizes_fit_the_plan_that_is_written_for_them(
    cache: tuple[Path, Prepared], method: str, encoder: str
) -> None:
    pair = train.build(PretrainingSettings.model_validate({"method": method, "encoder": encoder}))
    plan = adaptation_plan(*pair, cache[1].plans)
    preset = {"resenc": "ResEncL", "primus": "PrimusM"}[encoder]
    assert plan["architecture_plans"]["arch_class_name"] == preset
    assert plan["architecture_plans"]["arch_kwargs"] is None
    assert plan["recommended_downstream_patchsize"] == [160, 160, 160]
    assert json.loads(json.dumps(plan)) == plan
    with torch.device("meta"):
        weights = pair[0].module(pair[1]).state_dict()
        assert verify(weights, plan)
    below = "encoder." if encoder == "resenc" or method in {"voco", "simclr", "swin_unetr"} else ""
    last = "stages" if encoder == "resenc" else "eva"
    assert plan["key_to_encoder"] == below + last
    assert {f"{key}.weight" for key in plan["keys_to_in_proj"]} <= set(weights)
    assert plan["key_to_lpe"] in {None, *weights}


def test_weights_that_do_not_fit_their_plan_are_refused(cache: tuple[Path, Prepared]) -> None:
    method, net = train.build(settings())
    plan = adaptation_plan(method, net, cache[1].plans, tiny=True)
    assert encoder_of(plan).width == 48
    weights = method.module(net).state_dict()
    without = {key: value for key, value in weights.items() if key != "eva.blocks.1.mlp.fc2.weight"}
    with pytest.raises(TrainingError, match=r"below eva: eva\.blocks\.1\.mlp\.fc2\.weight"):
        verify(without, plan)
    with pytest.raises(TrainingError, match=r"eva\.norm\.bias is"):
        verify({**weights, "eva.norm.bias": torch.zeros(3)}, plan)
    with pytest.raises(TrainingError, match="encoder is a VGG"):
        verify(weights, {**plan, "architecture_plans": {"arch_class_name": "VGG", "arch_kwargs": None}})


def test_nnunets_own_loader_takes_a_convolutional_checkpoint(
    test_data: Path, cache: tuple[Path, Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    train.run(job(test_data, cache[0], tmp_path, settings("mae", "resenc", epochs=1, iterations=1)))
    final = tmp_path / "fold_all" / "checkpoint_final.pth"
    checkpoint = load(final)
    architecture = checkpoint.plan["architecture_plans"]
    network = get_network_from_plans(
        f"dynamic_network_architectures.architectures.unet.{architecture['arch_class_name']}",
        architecture["arch_kwargs"], architecture["arch_kwargs_requiring_import"], 1, 3, deep_supervision=True,
    )  # fmt: skip
    load_pretrained_weights(network, str(final))
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in checkpoint.weights.items() if "seg_layers" not in key)
    # Its fine-tuning of encoders takes these parts alone, strictly, under the names that the network's class says.
    for part in ("key_to_encoder", "key_to_stem"):
        assert getattr(network, part) == checkpoint.plan[part]
        below = f"{checkpoint.plan[part]}."
        found = {k.removeprefix(below): value for k, value in checkpoint.weights.items() if k.startswith(below)}
        network.get_submodule(getattr(network, part)).load_state_dict(found, strict=True)
    assert list(network.keys_to_in_proj) == list(checkpoint.plan["keys_to_in_proj"])


@pytest.mark.parametrize("method", ["mae", "voco"])
def test_tokens_in_nnssls_order_are_exported_in_ours(cache: tuple[Path, Prepared], method: str) -> None:
    made, net = train.build(settings(method, encoder_options={"published_order": True, "drop_path": 0}))
    plan = adaptation_plan(made, net, cache[1].plans, tiny=True)
    module = made.module(net).eval()
    network: Any = downstream(plan).eval()
    take_up(network, in_own_order(module.state_dict(), net, plan), plan)
    theirs = getattr(module, "encoder", module)
    image = torch.randn(2, 1, *made.seen)
    wanted = theirs.to_grid(theirs.eva(theirs.embed(image)))
    torch.testing.assert_close(network.to_grid(network.eva(network.embed(image))), wanted, rtol=1e-4, atol=1e-5)
    take_up(network, module.state_dict(), plan)
    assert not torch.allclose(network.to_grid(network.eva(network.embed(image))), wanted, atol=1e-3)


def test_what_a_training_takes_is_told_before_it_starts() -> None:
    chosen = PretrainingSettings(method="mae", encoder="resenc", precision="fp32")
    pair = train.build(chosen)
    cost = count(*pair)
    assert cost.parameters == 102_348_965
    assert cost.operations == pytest.approx(8.4e12, rel=0.01)
    assert cost.kept / 2**30 == pytest.approx(8.0, abs=0.1)
    # Twice the weights and the momentum, and what eight images leave behind; half of that in 16 bits.
    assert cost.memory(8, "sgd", half=False) == 12 * cost.parameters + 8 * cost.kept
    assert cost.memory(8, "adamw", half=True) == 16 * cost.parameters + 4 * cost.kept
    said = train.outlook(chosen, pair, torch.device("cpu"), train.Ranks(size=2))
    assert said.startswith("to come: 250000 steps of 4 images and 33.")
    assert "33.0 GiB of memory" in said


@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_each_pair_can_be_counted(method: str, encoder: str) -> None:
    cost = count(*train.build(settings(method, encoder)))
    assert cost.operations > 1e7
    assert cost.kept > 1e5


def test_anonymised_voxels_are_left_out_of_the_loss_on_request(cache: tuple[Path, Prepared]) -> None:
    cases = [case for case in (*cache[1].training, *cache[1].validation) if "errsm20" in case]
    assert cases
    shares = {}
    for leave_out in (True, False):
        store = ImageStore(cache[1].folder, cases, anonymised=leave_out)
        method, net = train.build(settings("mae", "primus"))
        task = PretrainingTask(
            method, net, (store, store), batch=4, val_iterations=1, seed=1, device=torch.device("cpu")
        )
        weights = [batch["weight"] for _, batch in zip(range(4), task.batches(0, 0), strict=False)]
        shares[leave_out] = float(torch.cat(weights).mean())
    assert shares[False] == 1
    assert 0.2 < shares[True] < 0.95


def test_settings_follow_the_papers_and_say_what_is_wrong() -> None:
    full = {encoder: PretrainingSettings(encoder=encoder).optimiser(1.0) for encoder in ("resenc", "primus")}
    assert full["resenc"]["lr"] == 1e-2
    assert full["resenc"]["weight_decay"] == 3e-5
    assert full["primus"] == {
        "name": "adamw", "lr": 3e-4, "betas": (0.9, 0.98), "weight_decay": 5e-2, "warmup": 50, "clip": 1.0,
        "schedule": "poly", "by_epoch": True,
    }  # fmt: skip
    assert PretrainingSettings(encoder="primus", epochs=100).optimiser(1.0)["warmup"] == 10
    assert PretrainingSettings(lr=0.5).optimiser(None)["lr"] == 0.5
    loop = train.loop_settings(PretrainingSettings(), train.build(PretrainingSettings())[0])
    assert (loop.epochs, loop.iterations, loop.best) == (1000, 250, "-val_loss")
    assert PretrainingSettings().length("val_iterations") == 50
    (group,) = loop.optimiser.optimiser([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.99, True)
    assert train.batch_size(PretrainingSettings(), train.build(PretrainingSettings())[0]) == 8
    with pytest.raises(ValidationError, match="convolutional encoder has none"):
        settings("simmim", "resenc")
    with pytest.raises(TrainingError, match="no option 'breadth'"):
        train.build(settings(encoder_options={"breadth": 3}))
    with pytest.raises(TrainingError, match="divisible by the token"):
        train.build(settings(method_options={"patch": [20, 32, 32]}))
    method, net = train.build(settings())
    empty: Any = (None, None)
    with pytest.raises(TrainingError, match="does not split over 2"):
        PretrainingTask(
            method, net, empty, batch=3, val_iterations=1, seed=1, device=torch.device("cpu"), ranks=train.Ranks(size=2)
        )


@pytest.mark.long
def test_processes_that_share_a_training_stop_and_go_on_together(
    test_data: Path, cache: tuple[Path, Prepared], tmp_path: Path
) -> None:
    chosen = settings("mae", "primus", checkpoint_minutes=0)
    todo = job(test_data, cache[0], tmp_path, chosen) | {"gpus": 2}
    first = train.run(todo | {"max_minutes": 0.01})
    assert first["trained"] == []
    assert first["stopped"].startswith("the time limit")
    assert train.run(todo)["trained"] == ["all"]
    assert [line["epoch"] for line in lines(tmp_path / "fold_all")] == [0, 1]
    assert load(tmp_path / "fold_all" / "checkpoint_final.pth").trainer_name == "mreg_mae_primus"


TWO = """
import sys, torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from trainers.core.distributed import join
from trainers.nets.primus import PrimusConfig
from trainers.nets.resenc import ResEncConfig
from trainers.pretraining.method import Draws, fitted
from trainers.pretraining.methods import make

torch.set_num_threads(1)
nets = {"resenc": ResEncConfig(features=(4, 8), blocks=(1, 1)),
        "primus": PrimusConfig(width=24, depth=1, heads=2, drop_path=0)}
with join(torch.device("cpu")) as (ranks, device):
    for name, encoder in (("mae", "resenc"), ("mae", "primus"), ("s3d", "resenc"), ("volume_fusion", "primus")):
        torch.manual_seed(1)
        method = make(name, encoder, tiny=True)
        module = method.module(fitted(nets[encoder], method))
        images = torch.randn(2 * method.reading().each, 1, *method.reading().patch)
        views = method.views(images, torch.ones_like(images), Draws.of((1,), device, train=True))
        own = {key: value[ranks.rank :: ranks.size] for key, value in views.items()}
        method.losses(module, views)["loss"].backward()
        alone = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        module.zero_grad()
        together = DistributedDataParallel(module)
        method.losses(together, own)["loss"].backward()
        for one, parameter in zip(alone, module.parameters()):
            if one is not None:
                torch.testing.assert_close(parameter.grad, one, rtol=1e-3, atol=1e-5)
    print("alike" if ranks.size == 2 else "alone")
"""


def test_two_processes_have_the_gradients_of_one() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", TWO], capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("alike") == 2  # two processes write here
