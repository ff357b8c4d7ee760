"""Primus, a Transformer, as a trainer of nnU-Net: with the trainers' names and weights of nnU-Net's own, without timm.

nnU-Net's `nnUNet_Primus_M_Trainer` and its siblings import timm and torchvision, which not every torch goes with. What
is trained here carries their names where the size is one of theirs, so that stock nnU-Net loads the result. A
Primus of another size is `nnUNetTrainer_Primus`, its size in plans.json, which no other program knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from trainers.core.errors import TrainingError
from trainers.nets.primus import SIZES, Primus, PrimusConfig
from trainers.pretraining.finetuning import Rates, Schedule
from trainers.segmentation.config import OTHER_PRIMUS, PRIMUS_TRAINERS

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

CLASS = "dynamic_network_architectures.architectures.primus.Primus"
CLIP = 1.0  # longest gradient
BETAS = (0.9, 0.98)


class SegmentationPrimus(Primus):
    """A Primus with the blank token that nnU-Net's has among its weights and does not use."""

    mask_token: torch.Tensor

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__(config)
        self.register_buffer("mask_token", torch.zeros(1, 1, config.width))


class PrimusTrainer(nnUNetTrainer):  # type: ignore[misc] # nnU-Net is untyped
    """nnU-Net's training of a Primus: AdamW, warm-up of 50 epochs, gradients no longer than 1, one output."""

    takes_sizes_only = True  # from plans.json, no names of classes

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature, which it inspects
    ) -> None:  # fmt: skip
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr, self.weight_decay = 3e-4, 5e-2
        self.enable_deep_supervision = False

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> torch.nn.Module:
        """Return the network of the configuration's patch; raise `TrainingError` where it does not fit."""
        raise NotImplementedError

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return AdamW with clipped gradients, and its rates."""
        parameters = self.network.parameters()
        optimiser = torch.optim.AdamW(parameters, self.initial_lr, betas=BETAS, weight_decay=self.weight_decay)

        def clip(optimiser: torch.optim.Optimizer, *_: Any) -> None:  # after nnU-Net's own limit of 12
            for group in optimiser.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], CLIP)

        optimiser.register_step_pre_hook(clip)
        schedule = Schedule(mode="warmup", lr=self.initial_lr, epochs=self.num_epochs)
        return optimiser, Rates(optimiser, self.network, schedule)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: there is one output."""


def trainer_class(name: str) -> type[PrimusTrainer] | None:
    """Return the trainer class of that name, None where it trains no Primus of ours."""
    if name not in (*PRIMUS_TRAINERS, OTHER_PRIMUS):
        return None

    def build(
        plans_manager: PlansManager,  # noqa: ARG001
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,  # noqa: ARG001
    ) -> torch.nn.Module:
        return network(name, configuration_manager, num_input_channels, num_output_channels)

    return type(name, (PrimusTrainer,), {"build_network_architecture": staticmethod(build)})


def trainer_of(net: PrimusConfig) -> str:
    """Return the name of the trainer of a size: nnU-Net's own where it has one."""
    if net.token == PrimusConfig().token and net.layer_scale == PrimusConfig().layer_scale:
        for name, size in PRIMUS_TRAINERS.items():
            if SIZES[size] == {"width": net.width, "depth": net.depth, "heads": net.heads}:
                return name
    return OTHER_PRIMUS


def architecture(net: PrimusConfig, patch: list[int]) -> dict[str, Any]:
    """Return what plans.json says of the network."""
    kwargs = {
        "embed_dim": net.width, "patch_embed_size": [net.token] * 3, "eva_depth": net.depth, "eva_numheads": net.heads,
        "init_values": net.layer_scale, "scale_attn_inner": True, "drop_path_rate": net.drop_path, "input_shape": patch,
    }  # fmt: skip
    return {"network_class_name": CLASS, "arch_kwargs": kwargs, "_kw_requires_import": []}


def network(name: str, configuration: ConfigurationManager, inputs: int, outputs: int) -> SegmentationPrimus:
    """Build the network of a trainer, by its name or by what the plans say; raise `TrainingError`."""
    if configuration.network_arch_class_name == CLASS:
        kwargs = configuration.network_arch_init_kwargs
        values = {
            "width": kwargs["embed_dim"], "token": kwargs["patch_embed_size"][0], "depth": kwargs["eva_depth"],
            "heads": kwargs["eva_numheads"], "layer_scale": kwargs["init_values"],
            "drop_path": kwargs.get("drop_path_rate", 0.0),
        }  # fmt: skip
    elif name in PRIMUS_TRAINERS:
        values = dict(SIZES[PRIMUS_TRAINERS[name]])
    else:
        raise TrainingError(f"trainer {name} is for Primus encoders", hint="mreg train --from A_PRE_TRAINED_PRIMUS")
    patch = tuple(int(size) for size in configuration.patch_size)
    try:
        config = PrimusConfig(**values, patch=patch, channels_in=inputs, channels_out=outputs)  # type: ignore[arg-type]
    except ValueError as error:
        raise TrainingError(f"trainer {name}: {error}", hint="--set patch_size=[Z,Y,X]") from error
    return SegmentationPrimus(config)
