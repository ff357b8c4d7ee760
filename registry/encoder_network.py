"""The weights that a pre-trained encoder has, worked out from its adaptation plan without torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from registry.networks import PACKAGE, Shapes, UnknownNetworkError, shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = 8  # voxels along an axis, of the presets
MOST = 1 << 12  # of a width, depth or side, more than anybody trains
PRIMUS = {"PrimusS": (396, 12), "PrimusB": (792, 12), "PrimusM": (864, 16), "PrimusL": (1056, 24)}  # width, depth
RESENC, RESENC_L = "ResidualEncoderUNet", "ResEncL"
STAGES = 6
RESENC_L_KEYWORDS: dict[str, Any] = {
    "n_stages": STAGES,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * STAGES,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * (STAGES - 1),
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * (STAGES - 1),
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU",
}


def encoder_shapes(plan: Mapping[str, Any]) -> Shapes:
    """Return name → shape of every weight of encoder and stem, named as the checkpoint names them.

    Raises `UnknownNetworkError` for a plan that lacks something or describes another encoder.
    """
    try:
        architecture = plan["architecture_plans"]
        name, keywords = architecture["arch_class_name"], architecture["arch_kwargs"] or {}
        channels = int(plan["pretrain_num_input_channels"])
        if name in (RESENC, RESENC_L):
            described = {"network_class_name": PACKAGE + RESENC, "arch_kwargs": keywords or RESENC_L_KEYWORDS}
            found = shapes(described, channels, 1)
            return {key: shape for key, shape in found.items() if key.startswith("encoder.")}
        if name == "Primus":
            token, layered = int(keywords["patch_embed_size"][0]), keywords["init_values"] is not None
            width, depth = int(keywords["embed_dim"]), int(keywords["eva_depth"])
        else:
            (width, depth), token, layered = PRIMUS[name], TOKEN, True
        sides = [math.ceil(side / token) for side in _patch(plan)]
        if not all(0 < number <= MOST for number in (width, depth, *sides)):
            raise UnknownNetworkError(f"{name} of width {width}, depth {depth} and {sides} tokens")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UnknownNetworkError(f"{type(error).__name__} {error}") from error
    eva, stem = str(plan.get("key_to_encoder")), str(plan.get("key_to_stem"))
    weights = {f"{stem}.proj.weight": (width, channels, token, token, token), f"{stem}.proj.bias": (width,)}
    weights[f"{eva}.pos_embed"] = (1, math.prod(sides), width)
    weights |= dict(_affine(f"{eva}.norm", width))
    for number in range(depth):
        weights |= dict(_block(f"{eva}.blocks.{number}", width, layered=layered))
    return weights


def _patch(plan: Mapping[str, Any]) -> list[int]:
    """Return the shape of the volumes that the encoder was trained on."""
    pretraining = plan["pretrain_plan"]
    (configuration,) = pretraining["configurations"].values()
    return [int(side) for side in pretraining.get("pretrain_patch_size") or configuration["patch_size"]]


def _block(prefix: str, width: int, *, layered: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = int(width * 4 * 2 / 3)
    for norm in ("norm1", "norm2", "attn.norm"):
        yield from _affine(f"{prefix}.{norm}", width)
    for layer in ("q_proj", "v_proj", "proj"):
        yield f"{prefix}.attn.{layer}.weight", (width, width)
        yield f"{prefix}.attn.{layer}.bias", (width,)
    yield f"{prefix}.attn.k_proj.weight", (width, width)
    for layer, (inputs, outputs) in {
        "fc1_g": (width, hidden), "fc1_x": (width, hidden), "fc2": (hidden, width),
    }.items():  # fmt: skip
        yield f"{prefix}.mlp.{layer}.weight", (outputs, inputs)
        yield f"{prefix}.mlp.{layer}.bias", (outputs,)
    yield from _affine(f"{prefix}.mlp.norm", hidden)
    for name in ("gamma_1", "gamma_2") if layered else ():
        yield f"{prefix}.{name}", (width,)


def _affine(prefix: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.weight", (size,)
    yield f"{prefix}.bias", (size,)
