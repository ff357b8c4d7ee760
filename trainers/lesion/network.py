"""The recipe's nets, and a trained one on disk: weights with everything that a prediction needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trainers.core import checkpoints
from trainers.core.errors import TrainingError
from trainers.lesion.config import LesionSettings
from trainers.lesion.intensity import Standard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

FORMAT = "mreg-lesion-1"
STAGE_FEATURES = (32, 64, 128, 256, 320)
STAGE_BLOCKS = (1, 3, 4, 6, 6)


@dataclass(frozen=True, eq=False)
class LesionNet:
    """A trained net of one fold."""

    module: nn.Module
    settings: LesionSettings
    standard: Standard
    threshold: float
    value: int  # of a lesion in label maps


def build(settings: LesionSettings) -> nn.Module:
    """Return an untrained net: images (B, 1, Z, Y, X) to logits (B, 1, Z, Y, X)."""
    if settings.net == "resenc":
        from trainers.nets.resenc import ResEncConfig, unet

        config = ResEncConfig(features=STAGE_FEATURES[: settings.depth], blocks=STAGE_BLOCKS[: settings.depth])
        return unet(config)
    from trainers.nets.unet3d import UNet3D, UNet3DConfig

    return UNet3D(UNet3DConfig(depth=settings.depth, base=settings.base, norm=settings.norm))


def save(path: Path, net: LesionNet) -> None:
    """Write a trained net: tensors and plain values only."""
    checkpoints.save_state(
        path,
        {
            "format": FORMAT,
            "network_weights": {key: value.detach().cpu() for key, value in net.module.state_dict().items()},
            "settings": net.settings.model_dump(mode="json"),
            "intensity": net.standard.as_json(),
            "threshold": net.threshold,
            "lesion_value": net.value,
        },
    )


def load(path: Path, device: torch.device, *, half: bool = False) -> LesionNet:
    """Read a trained net without executing anything; `half` takes the weights as a half-precision release has them."""
    state = checkpoints.load_state(path, torch.device("cpu"))
    if state.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a net of recipe lesion (format {state.get('format')!r})")
    settings = LesionSettings.model_validate(state["settings"])
    module = build(settings)
    weights = state["network_weights"]
    if half:
        weights = {k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in weights.items()}
    module.load_state_dict(weights)
    module.to(device).eval()
    return LesionNet(
        module=module, settings=settings, standard=Standard.from_json(state["intensity"]),
        threshold=float(state["threshold"]), value=int(state["lesion_value"]),
    )  # fmt: skip


def take_weights(module: nn.Module, path: Path) -> tuple[int, int]:
    """Start from a checkpoint's weights: those with a tensor of the same name and shape are taken.

    Returns how many parameters were taken, and how many there are. Raises `TrainingError` where none fits.
    """
    state: Any = checkpoints.load_state(path, torch.device("cpu"))
    for key in ("network_weights", "module", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    own = module.state_dict()
    fits = {k: v for k, v in state.items() if k in own and getattr(v, "shape", None) == own[k].shape}
    if not fits:
        raise TrainingError(f"{path}: no tensor fits the net", hint="use the net and size that it was trained with")
    module.load_state_dict({**own, **fits})
    return sum(own[key].numel() for key in fits), sum(value.numel() for value in own.values())
