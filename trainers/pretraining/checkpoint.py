"""What pre-training gives away: weights, and the plan of how another training takes them up.

Keys are those of nnssl's checkpoints, so that programs that fine-tune from these read ours. Nothing in a file can run,
and there are neither paths nor subjects in it. Before a training starts, and whenever a file is read, the downstream
network is built from the plan alone and takes encoder and stem from the weights, strictly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from trainers.core import checkpoints
from trainers.core.errors import TrainingError
from trainers.nets import primus, resenc
from trainers.nets.positions import unswapped
from trainers.nets.primus import Primus, PrimusConfig
from trainers.nets.resenc import ResEncConfig, unet
from trainers.pretraining.citations import citations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from trainers.pretraining.method import Method, Net

DOWNSTREAM_PATCH = [160, 160, 160]
RESENC_L = "ResEncL"
WITHOUT_PLACE = ".cls_token"  # some Transformers of nnssl's carry one; no network that is fine-tuned has a place for it
EMBEDDED = ("voco", "simclr", "swin_unetr")  # whose encoder stands below `encoder`, a Primus' too


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A checkpoint: its weights, and the plan to take them up."""

    weights: dict[str, Tensor]
    plan: dict[str, Any]
    trainer_name: str
    citations: list[dict[str, Any]]


def adaptation_plan(method: Method, net: Net, plans: Mapping[str, Any], *, tiny: bool = False) -> dict[str, Any]:
    """Return what another training needs to know; `plans` holds one configuration."""
    patch = list(method.seen)
    configurations = {key: {**value, "patch_size": patch} for key, value in plans["configurations"].items()}
    prefix = "encoder." if isinstance(net, PrimusConfig) and method.name in EMBEDDED else ""
    keys = primus if isinstance(net, PrimusConfig) else resenc
    return {
        "architecture_plans": _architecture(net),
        "pretrain_plan": {**plans, "configurations": configurations},
        "pretrain_num_input_channels": net.channels_in,
        "recommended_downstream_patchsize": patch if tiny else DOWNSTREAM_PATCH,
        "key_to_encoder": prefix + keys.ENCODER_KEY,
        "key_to_stem": prefix + keys.STEM_KEY,
        "keys_to_in_proj": [prefix + key for key in keys.INPUT_KEYS],
        "key_to_lpe": prefix + primus.TABLE_KEY if isinstance(net, PrimusConfig) else None,
    }


def _architecture(net: Net) -> dict[str, Any]:
    """Name a preset, or give the arguments of the library's class."""
    plain: dict[str, Any] = {"arch_kwargs": None, "arch_kwargs_requiring_import": None}
    if isinstance(net, ResEncConfig):
        if (net.features, net.blocks) == (ResEncConfig().features, ResEncConfig().blocks):
            return {"arch_class_name": RESENC_L, **plain}
        return {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": net.keywords(),
            "arch_kwargs_requiring_import": list(resenc.TYPES),
        }
    if net.token == PrimusConfig().token and net.layer_scale == PrimusConfig().layer_scale:
        for size, values in primus.SIZES.items():
            if values == {"width": net.width, "depth": net.depth, "heads": net.heads}:
                return {"arch_class_name": f"Primus{size}", **plain}
    kwargs = {
        "embed_dim": net.width, "patch_embed_size": [net.token] * 3, "eva_depth": net.depth, "eva_numheads": net.heads,
        "init_values": net.layer_scale, "scale_attn_inner": True,
    }  # fmt: skip
    return {"arch_class_name": "Primus", "arch_kwargs": kwargs, "arch_kwargs_requiring_import": []}


def encoder_of(plan: Mapping[str, Any]) -> Net:
    """Return the encoder that a plan describes, of this system or of nnssl; raise `TrainingError` for another one."""
    architecture = plan["architecture_plans"]
    name, kwargs = architecture["arch_class_name"], architecture["arch_kwargs"] or {}
    channels = int(plan["pretrain_num_input_channels"])
    patch = seen_patch(plan)
    if name == RESENC_L:
        return ResEncConfig(channels_in=channels)
    if name == "ResidualEncoderUNet":
        net = ResEncConfig(
            features=tuple(kwargs["features_per_stage"]), blocks=tuple(kwargs["n_blocks_per_stage"]),
            channels_in=channels,
        )  # fmt: skip
        if any(net.keywords()[key] != kwargs.get(key) for key in ("kernel_sizes", "strides", "conv_bias")):
            raise TrainingError("the checkpoint's ResEnc has other kernels or strides than a cube's")
        return net
    if name == "Primus":
        return PrimusConfig(
            width=kwargs["embed_dim"], depth=kwargs["eva_depth"], heads=kwargs["eva_numheads"],
            token=kwargs["patch_embed_size"][0], layer_scale=kwargs["init_values"], patch=patch, channels_in=channels,
        )  # fmt: skip
    size: Any = primus.SIZES.get(name.removeprefix("Primus"))
    if size:
        return PrimusConfig(**size, patch=patch, channels_in=channels)
    raise TrainingError(f"the checkpoint's encoder is a {name}", hint="ResEncL, ResidualEncoderUNet or Primus")


def seen_patch(plan: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the shape of the volumes that the encoder was trained on."""
    pretrain_plan = plan["pretrain_plan"]
    (configuration,) = pretrain_plan["configurations"].values()
    z, y, x = pretrain_plan.get("pretrain_patch_size") or configuration["patch_size"]
    return int(z), int(y), int(x)


def downstream(plan: Mapping[str, Any], outputs: int = 2) -> nn.Module:
    """Build the network that a fine-tuning would, from the plan alone."""
    net = encoder_of(plan).with_outputs(outputs)
    return unet(net) if isinstance(net, ResEncConfig) else Primus(net)


def take_up(network: nn.Module, weights: Mapping[str, Tensor], plan: Mapping[str, Any]) -> list[str]:
    """Load encoder and stem of the weights into a downstream network, strictly; return the keys that were taken.

    Raises `TrainingError` where a key is missing on either side or a shape differs.
    """
    prefix = "encoder." if plan["key_to_encoder"] == f"encoder.{primus.ENCODER_KEY}" else ""
    taken: dict[str, Tensor] = {}
    own = network.state_dict()
    for part in (plan["key_to_encoder"], plan["key_to_stem"]):
        here = part.removeprefix(prefix)
        found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(f"{part}.")}
        wanted = {key for key in own if key.startswith(f"{here}.")}
        if not wanted or wanted != set(found):
            odd = sorted(wanted ^ set(found))
            raise TrainingError(f"the checkpoint does not fit its plan below {part}: {', '.join(odd[:3]) or 'nothing'}")
        taken |= found
    for key, value in taken.items():
        if own[key].shape != value.shape:
            raise TrainingError(
                f"the checkpoint does not fit its plan: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
    missing = [key for key in plan["keys_to_in_proj"] if f"{key}.weight" not in weights]
    if missing:
        raise TrainingError(f"the checkpoint does not fit its plan: it has no {missing[0]}.weight")
    network.load_state_dict(taken, strict=False)
    return sorted(taken)


def verify(weights: Mapping[str, Tensor], plan: Mapping[str, Any]) -> list[str]:
    """Return the keys that a fine-tuning takes; raise `TrainingError` where it could not."""
    return take_up(downstream(plan), weights, plan)


def in_own_order(weights: dict[str, Tensor], net: Net, plan: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights whose encoder numbers its tokens as a downstream network does."""
    if isinstance(net, PrimusConfig) and net.published_order:
        return unswapped(weights, plan["key_to_encoder"], net.grid, net.heads)
    return weights


def save_final(path: Path, weights: dict[str, Tensor], plan: dict[str, Any], about: Mapping[str, Any]) -> None:
    """Write a checkpoint; `about` says how it was made: method, encoder, epochs, losses (lists), best.

    The optimiser's state stays in the training's own checkpoints: no fine-tuning wants it.
    """
    verify(weights, plan)
    checkpoints.save_state(
        path,
        {
            "network_weights": weights,
            "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": dict(about["logging"]),
            "_best_ema": about["best"],
            "current_epoch": about["epochs"],
            "init_args": {},
            "trainer_name": about["trainer_name"],
            "nnssl_adaptation_plan": plan,
            "citations": citations(about["method"], about["encoder"]),
            "mreg": {key: about[key] for key in ("method", "encoder", "method_options", "encoder_options")},
        },
    )


def load(path: Path) -> Pretrained:
    """Read a checkpoint of this system or of nnssl, and verify its plan; raise `TrainingError`."""
    state = checkpoints.load_state(path, torch.device("cpu"))
    missing = {"network_weights", "nnssl_adaptation_plan"} - set(state)
    if missing:
        raise TrainingError(
            f"{path}: no {' and no '.join(sorted(missing))}: not a pre-trained encoder",
            hint="give a checkpoint of recipe pretrain or of nnssl",
        )
    weights = {key: value for key, value in state["network_weights"].items() if not key.endswith(WITHOUT_PLACE)}
    found = Pretrained(
        weights=weights, plan=state["nnssl_adaptation_plan"],
        trainer_name=str(state.get("trainer_name", "")), citations=list(state.get("citations") or ()),
    )  # fmt: skip
    verify(found.weights, found.plan)
    return found


def inspect(path: Path) -> dict[str, Any]:
    """Build the downstream network from a checkpoint's plan alone and load it; return how many weights it took."""
    found = load(path)
    return {"taken": len(verify(found.weights, found.plan)), "weights": len(found.weights)}


def options_of(method: Any, net: Any) -> dict[str, Any]:
    """Return every hyper-parameter of a method and every size of an encoder, as plain values."""
    return {"method_options": asdict(method), "encoder_options": asdict(net)}
