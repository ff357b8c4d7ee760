"""Networks that start from pre-trained encoders, of this system and of nnssl, and how fast they change at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.core.errors import TrainingError
from trainers.nets.primus import Primus, PrimusConfig
from trainers.nets.resenc import ResEncConfig, unet
from trainers.pretraining.checkpoint import adaptation_plan, load
from trainers.pretraining.finetuning import Schedule, freeze, start_from
from trainers.pretraining.methods import make
from trainers.pretraining.plan import make_plans

SMALL: dict[str, Any] = {
    "resenc": ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 2)),
    "primus": PrimusConfig(width=24, depth=2, heads=2, patch=(32, 32, 32), drop_path=0),
}


@pytest.fixture(autouse=True)
def _alike() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(2)


def checkpoint(
    folder: Path, encoder: str, method: str = "mae", trainer: str = "BaseMAETrainer_BS8", **more: Any
) -> Path:
    """Write a file in the layout that nnssl publishes: no optimiser, citations, plans in full."""
    made, net = make(method, encoder, tiny=True), SMALL[encoder]
    if isinstance(net, PrimusConfig):
        net = PrimusConfig(width=24, depth=2, heads=2, patch=made.seen, drop_path=0)
    plans = make_plans("Dataset745_OpenMind", [[1.0, 1.0, 1.0]], None)
    plans["configurations"] = {"onemmiso": plans["configurations"]["onemmiso"]}
    plan = adaptation_plan(made, net, plans)
    state = {
        "network_weights": {**made.module(net).state_dict(), **more},
        "trainer_name": trainer,
        "nnssl_adaptation_plan": plan,
        "citations": [{"type": "Pretraining", "name": "MAE", "apa_citations": ["He, K., et al. (2022)."]}],
        "init_args": {"fold": "all"},
        "_best_ema": 0.1,
        "grad_scaler_state": None,
    }
    torch.save(state, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth"


@pytest.mark.parametrize(
    ("method", "encoder"), [("mae", "resenc"), ("simclr", "resenc"), ("mae", "primus"), ("voco", "primus")]
)
def test_a_network_takes_the_encoder_and_keeps_its_decoder(tmp_path: Path, method: str, encoder: str) -> None:
    found = load(checkpoint(tmp_path, encoder, method, "mreg_test"))
    patch = make(method, encoder, tiny=True).seen
    primus = PrimusConfig(width=24, depth=2, heads=2, patch=patch, drop_path=0, channels_out=3)
    network = unet(SMALL["resenc"].with_outputs(3)) if encoder == "resenc" else Primus(primus)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = start_from(network, found)
    after = network.state_dict()
    assert report.changed == {}
    assert set(report.used) | set(report.new) == set(after)
    prefix = "encoder." if encoder == "primus" and method == "voco" else ""
    assert all(torch.equal(after[key], found.weights[prefix + key]) for key in report.used)
    decoder = [key for key in report.new if not key.startswith("decoder.encoder")]
    assert decoder
    assert all(torch.equal(after[key], before[key]) for key in decoder)
    assert len(report.used) + len(report.skipped) == len(found.weights)
    assert "weights taken" in report.summary


def test_more_channels_repeat_the_stem_and_give_the_same_for_equal_channels(tmp_path: Path) -> None:
    found = load(checkpoint(tmp_path, "resenc"))
    one = unet(SMALL["resenc"])
    three = unet(ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 2), channels_in=3))
    start_from(one, found)
    report = start_from(three, found)
    assert set(report.changed.values()) == {"repeated for 3 channels"}
    assert len(report.changed) == 2  # both names
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(
        three.encoder(image.expand(-1, 3, -1, -1, -1))[-1], one.encoder(image)[-1], rtol=1e-3, atol=1e-4
    )


def test_a_primus_of_more_channels_and_another_patch_reports_both(tmp_path: Path) -> None:
    found = load(checkpoint(tmp_path, "primus", trainer="mreg_mae_primus"))
    network = Primus(PrimusConfig(width=24, depth=2, heads=2, patch=(32, 32, 48), channels_in=2, drop_path=0))
    report = start_from(network, found)
    assert report.changed == {
        "down_projection.proj.weight": "repeated for 2 channels",
        "eva.pos_embed": "resized from (4, 4, 4) to (4, 4, 6) tokens",
    }
    image, plain = torch.randn(1, 1, 32, 32, 48), found.weights["down_projection.proj.weight"]
    expected = torch.nn.functional.conv3d(image, plain, found.weights["down_projection.proj.bias"], 8)
    torch.testing.assert_close(network.down_projection(image.expand(-1, 2, -1, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_a_table_of_places_is_resized_for_another_patch(tmp_path: Path) -> None:
    found = load(checkpoint(tmp_path, "primus", trainer="mreg_mae_primus"))
    network = Primus(PrimusConfig(width=24, depth=2, heads=2, patch=(32, 48, 64), channels_out=2))
    report = start_from(network, found)
    assert report.changed == {"eva.pos_embed": "resized from (4, 4, 4) to (4, 6, 8) tokens"}
    table = network.eva.pos_embed.detach().view(4, 6, 8, 24)
    before = found.weights["eva.pos_embed"].view(4, 4, 4, 24)
    assert float(table.mean()) == pytest.approx(float(before.mean()), abs=2e-3)
    expected = torch.nn.functional.interpolate(before.permute(3, 0, 1, 2)[None], (4, 6, 8), mode="trilinear")
    torch.testing.assert_close(table, expected[0].permute(1, 2, 3, 0))


def test_tokens_of_nnssls_weights_are_brought_into_our_order(tmp_path: Path) -> None:
    published = PrimusConfig(width=24, depth=2, heads=2, patch=(32, 32, 32), drop_path=0, published_order=True)
    theirs = Primus(published).eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("up_projection")}
    weights["eva.cls_token"] = torch.zeros(1, 1, 24)
    file = checkpoint(tmp_path, "primus", trainer="BaseEvaMAETrainer_BS8", **weights)
    network = Primus(PrimusConfig(width=24, depth=2, heads=2, patch=(32, 32, 32), drop_path=0)).eval()
    report = start_from(network, load(file))
    assert report.changed == {"eva.pos_embed": "brought into our order of tokens"}
    image = torch.randn(1, 1, 32, 32, 32)
    ours = network.to_grid(network.eva(network.embed(image)))
    torch.testing.assert_close(ours, theirs.to_grid(theirs.eva(theirs.embed(image))), rtol=1e-4, atol=1e-5)
    assert start_from(network, load(file), swapped=False).changed == {}
    simmim = checkpoint(tmp_path, "primus", "simmim", "SimMIMEvaTrainer_BS8")
    assert start_from(network, load(simmim)).changed == {}


def test_a_stem_that_s3d_never_trained_is_not_taken(tmp_path: Path) -> None:
    stale = {"encoder.stem.convs.0.conv.weight": torch.full((4, 1, 3, 3, 3), 7.0)}
    found = load(checkpoint(tmp_path, "resenc", "s3d", "SparkMAETrainer_BS8", **stale))
    network = unet(SMALL["resenc"])
    report = start_from(network, found)
    assert list(report.changed) == ["encoder.stem.convs.0.conv.weight"]
    assert torch.equal(
        network.encoder.stem.convs[0].conv.weight, found.weights["encoder.stem.convs.0.all_modules.0.weight"]
    )
    assert any(key.startswith("fillings") for key in report.skipped)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    found = load(checkpoint(tmp_path, "resenc"))
    with pytest.raises(TrainingError, match=r"is \(4, 1, 3, 3, 3\) in the checkpoint and \(6, 1, 3, 3, 3\)"):
        start_from(unet(ResEncConfig(features=(6, 8, 8), blocks=(1, 1, 2))), found)
    with pytest.raises(TrainingError, match="not built for this checkpoint"):
        start_from(Primus(SMALL["primus"]), found)
    with pytest.raises(TrainingError, match=r"the checkpoint has no encoder\.stages\.2\.blocks\.2"):
        start_from(unet(ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 3))), found)
    torch.save({"network_weights": {}}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match="not a pre-trained encoder"):
        load(tmp_path / "other.pth")


def test_a_frozen_encoder_does_not_change_and_a_new_stem_does(tmp_path: Path) -> None:
    found = load(checkpoint(tmp_path, "resenc"))
    for channels in (1, 2):
        network = unet(ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 2), channels_in=channels))
        start_from(network, found)
        freeze(network, found.plan, learns=False)
        learning = {key.split(".")[1] for key, p in network.named_parameters() if p.requires_grad and "encoder" in key}
        assert learning == ({"stem"} if channels == 2 else set())
        freeze(network, found.plan, learns=True)
        assert all(p.requires_grad for key, p in network.named_parameters() if "seg_layers" not in key)


def test_rates_of_the_benchmarks_schedules() -> None:
    long = Schedule(mode="warmup", lr=1e-3, epochs=1000)
    assert [long.rate(e) for e in (0, 49, 50)] == pytest.approx([1e-3 / 50, 1e-3, 1e-3])
    assert long.rate(525) == pytest.approx(1e-3 * 0.5**0.9)
    assert long.encoder_learns(0)
    short = Schedule(mode="warmup", lr=1e-4, epochs=150)
    assert short.warmup == 15
    assert short.rate(14) == short.rate(15) == 1e-4
    saw = Schedule(mode="sawtooth", lr=1e-3, epochs=1000)
    assert [saw.encoder_learns(e) for e in (0, 49, 50)] == [False, False, True]
    rates = np.array([saw.rate(e) for e in range(1000)])
    assert rates[24] == rates[25] == 1e-3
    assert rates[49] < 1e-4
    assert rates[50] == pytest.approx(1e-3 / 50)
    assert rates[99] == rates[100] == 1e-3
    assert (np.diff(rates[100:]) < 0).all()
    assert Schedule(mode="sawtooth", lr=1.0, epochs=150).decoder_first == 15
    frozen = Schedule(mode="frozen", lr=1e-3, epochs=100)
    assert frozen.rate(0) == 1e-3
    assert not any(frozen.encoder_learns(e) for e in range(100))
