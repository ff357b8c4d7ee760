"""Transformers in recipe nnunet: names, networks and training of nnU-Net's own Primus trainers."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainers.core.errors import TrainingError
from trainers.nets.primus import SIZES, PrimusConfig
from trainers.segmentation.primus import PrimusTrainer, architecture, network, trainer_class, trainer_of
from trainers.segmentation.trainer_classes import find_trainer_class

SMALL = PrimusConfig(width=24, depth=1, heads=2, patch=(16, 16, 16))


def configuration(patch: tuple[int, ...] = (16, 16, 16), net: PrimusConfig | None = None) -> Any:
    plan = architecture(net, list(patch)) if net else {"network_class_name": "PlainConvUNet", "arch_kwargs": {}}
    return SimpleNamespace(
        patch_size=patch, network_arch_class_name=plan["network_class_name"],
        network_arch_init_kwargs=plan["arch_kwargs"],
    )  # fmt: skip


def test_a_size_of_nnunet_has_nnunets_trainer_and_any_other_one_ours() -> None:
    names = {size: trainer_of(PrimusConfig(**values)) for size, values in SIZES.items()}
    assert names == {size: f"nnUNet_Primus_{size}_Trainer" for size in SIZES}
    assert trainer_of(SMALL) == "nnUNetTrainer_Primus"
    assert trainer_of(PrimusConfig(token=16)) == "nnUNetTrainer_Primus"
    for name in (*names.values(), "nnUNetTrainer_Primus"):
        found = find_trainer_class(name, None)
        assert issubclass(found, PrimusTrainer)
        assert found.__name__ == name
    assert trainer_class("nnUNetTrainer") is None


def test_a_network_is_as_large_as_its_trainers_name_or_its_plans_say() -> None:
    with torch.device("meta"):
        by_name = network("nnUNet_Primus_M_Trainer", configuration((96, 96, 96)), 1, 2)
        by_plan = network("nnUNetTrainer_Primus", configuration(net=SMALL), 3, 4)
    assert sum(p.numel() for p in by_name.parameters()) == 146_602_394
    assert by_name.state_dict()["mask_token"].shape == (1, 1, 864)
    assert by_plan.down_projection.proj.weight.shape == (24, 3, 8, 8, 8)
    assert by_plan.config.channels_out == 4
    with pytest.raises(TrainingError, match=r"patch \(18, 16, 16\) is not divisible by the token size 8"):
        network("nnUNet_Primus_S_Trainer", configuration((18, 16, 16)), 1, 2)
    with pytest.raises(TrainingError, match="is for Primus encoders"):
        network("nnUNetTrainer_Primus", configuration(), 1, 2)


def test_gradients_are_clipped_and_rates_rise_first() -> None:
    trainer: Any = object.__new__(PrimusTrainer)
    trainer.network, trainer.num_epochs = torch.nn.Linear(2, 1, bias=False), 1000
    trainer.initial_lr, trainer.weight_decay = 3e-4, 5e-2
    optimiser, rates = trainer.configure_optimizers()
    assert optimiser.defaults["betas"] == (0.9, 0.98)
    found = []
    for epoch in (0, 49, 50, 525):
        rates.step(epoch)
        found.append(optimiser.param_groups[0]["lr"])
    assert found == pytest.approx([6e-6, 3e-4, 3e-4, 1.608e-4], rel=1e-3)
    trainer.network.weight.grad = torch.tensor([[30.0, 40.0]])
    optimiser.step()
    assert trainer.network.weight.grad.norm() == pytest.approx(1.0, abs=1e-4)


NNUNETS_OWN = """
import sys, torch
from types import SimpleNamespace
library = torch.library.Library("torchvision", "DEF")  # a torchvision of another torch has no operators
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer as theirs
from trainers.segmentation.trainer_classes import find_trainer_class
ours = find_trainer_class(theirs.__name__, None)
plan = SimpleNamespace(patch_size=(16, 24, 32), network_arch_class_name="PlainConvUNet")
one, two = (kind.build_network_architecture(None, plan, 2, 3, False).eval() for kind in (theirs, ours))
two.load_state_dict(one.state_dict())
one.load_state_dict(two.state_dict())
image = torch.randn(1, 2, 16, 24, 32)
sys.exit(float((one(image) - two(image)).abs().max()) > 1e-5)
"""


@pytest.mark.long
def test_nnunets_own_trainer_and_ours_take_each_others_weights() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NNUNETS_OWN], capture_output=True, text=True, check=False
    )
    if "ModuleNotFoundError" in found.stderr or "torchvision" in found.stderr:
        pytest.skip("timm or torchvision cannot be imported here")
    assert found.returncode == 0, found.stderr
