"""The recipe's nets, and a trained one on disk: weights with everything that a prediction needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainers.core import checkpoints
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.lesion.config import PLANS, TRAINER, LesionSettings
from trainers.lesion.intensity import Standard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from trainers.nets.resenc import ResEncConfig
    from trainers.pretraining.finetuning import Report

PLANS_FILE = "plans.json"
CONFIGURATION = "3d"
AXES = {"IS": 0, "AP": 1, "RL": 2}  # of patches (Z, Y, X) in RPI


@dataclass(frozen=True, eq=False)
class LesionNet:
    """A trained net of one fold."""

    module: nn.Module
    settings: LesionSettings
    standard: Standard
    threshold: float
    value: int = 1  # of a lesion in label maps


def build(settings: LesionSettings) -> nn.Module:
    """Return an untrained net: images (B, 1, Z, Y, X) to logits (B, 1, Z, Y, X)."""
    if settings.net == "resenc":
        from trainers.nets.resenc import unet

        return unet(_resenc(settings))
    from trainers.nets.unet3d import UNet3D, UNet3DConfig

    return UNet3D(UNet3DConfig(depth=settings.depth, base=settings.base, norm=settings.norm))


def save(run: Path, fold: int | str, net: LesionNet) -> None:
    """Write a trained net of a fold: weights in its checkpoint, all that a prediction needs beside them in plans.json.

    The checkpoint has the keys of nnU-Net's, so that it is checked, slimmed and released as those are.
    """
    plans = read_json(run / PLANS_FILE)
    found = {"threshold": net.threshold, "intensity": net.standard.as_json()}
    plans["folds"] = dict(sorted({**plans["folds"], str(fold): found}.items()))
    write_json(run / PLANS_FILE, plans)
    checkpoints.save_state(
        run / f"fold_{fold}" / checkpoints.FINAL,
        {
            "network_weights": {key: value.detach().cpu() for key, value in net.module.state_dict().items()},
            "init_args": {"configuration": CONFIGURATION},
            "trainer_name": TRAINER,
            "inference_allowed_mirroring_axes": tuple(sorted(AXES[name] for name in net.settings.mirror)),
        },
    )


def write_plans(run: Path, settings: LesionSettings, value: int) -> None:
    """Write plans.json before the training; folds that are finished stay in it."""
    path = run / PLANS_FILE
    folds = read_json(path).get("folds", {}) if path.is_file() else {}
    plans = {"plans_name": PLANS, "settings": settings.model_dump(mode="json"), "lesion_value": value, "folds": folds}
    write_json(path, plans)


def load(model: Path, fold: int | str, device: torch.device, *, half: bool = False) -> LesionNet:
    """Read a trained net without executing anything; `half` takes the weights as a half-precision release has them."""
    plans = read_json(model / PLANS_FILE)
    if plans.get("plans_name") != PLANS or str(fold) not in plans.get("folds", {}):
        raise TrainingError(f"{model / PLANS_FILE}: no net of recipe lesion, fold {fold}")
    state = checkpoints.load_state(model / f"fold_{fold}" / checkpoints.FINAL, torch.device("cpu"))
    settings = LesionSettings.model_validate(plans["settings"])
    module = build(settings)
    weights = state["network_weights"]
    if half:
        weights = {k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in weights.items()}
    module.load_state_dict(weights)
    module.to(device).eval()
    about = plans["folds"][str(fold)]
    return LesionNet(
        module=module, settings=settings, standard=Standard.from_json(about["intensity"]),
        threshold=float(about["threshold"]), value=int(plans["lesion_value"]),
    )  # fmt: skip


def begin(module: nn.Module, settings: LesionSettings, path: Path) -> Report:
    """Give an untrained net the weights of a checkpoint, and return what was taken.

    Of this recipe's checkpoints, tensors of the same name and shape are taken; of a pre-trained ResEnc the encoder, all
    of it. Raises `TrainingError` where nothing fits.
    """
    from trainers.pretraining.finetuning import Report

    state = checkpoints.load_state(path, torch.device("cpu"))
    if state.get("trainer_name") != TRAINER:
        return _begin_pretrained(module, settings, path)
    own = module.state_dict()
    given = state["network_weights"].items()
    fits = {key: value for key, value in given if key in own and value.shape == own[key].shape}
    if not fits:
        raise TrainingError(f"{path}: no tensor fits the net", hint="use the net and size that it was trained with")
    module.load_state_dict({**own, **fits})
    left, new = (tuple(key for key in keys if key not in fits) for keys in (state["network_weights"], own))
    return Report(used=tuple(fits), changed={}, skipped=left, new=new)


def _begin_pretrained(module: nn.Module, settings: LesionSettings, path: Path) -> Report:
    from trainers.nets.resenc import ResEncConfig
    from trainers.pretraining.checkpoint import encoder_of
    from trainers.pretraining.checkpoint import load as load_pretrained
    from trainers.pretraining.finetuning import start_from

    pretrained = load_pretrained(path)
    encoder = encoder_of(pretrained.plan)
    if not isinstance(encoder, ResEncConfig):
        raise TrainingError(f"{path}: recipe lesion starts from ResEnc encoders, this is a Primus")
    mine = _resenc(settings)
    if settings.net != "resenc" or (encoder.features, encoder.blocks) != (mine.features, mine.blocks):
        size: dict[str, object] = {
            "depth": len(encoder.features),
            "features": list(encoder.features),
            "blocks": list(encoder.blocks),
        }
        if settings.window % encoder.reduction:
            edge = -(-settings.window // encoder.reduction) * encoder.reduction
            size |= {"window": edge, "patch": [edge] * 3}
        flags = " ".join(f"--set {key}={str(value).replace(' ', '')}" for key, value in size.items())
        raise TrainingError(f"{path}: another net than net = {settings.net!r}", hint=f"--set net=resenc {flags}")
    return start_from(module, pretrained)


def _resenc(settings: LesionSettings) -> ResEncConfig:
    from trainers.nets.resenc import ResEncConfig

    return ResEncConfig(features=settings.features[: settings.depth], blocks=settings.blocks[: settings.depth])
