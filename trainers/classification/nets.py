"""The net that a plan describes: I3D, or an encoder of pre-training with heads."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from trainers.classification.plan import PlannedNet
from trainers.core.errors import TrainingError
from trainers.nets.i3d import I3D, I3DConfig

if TYPE_CHECKING:
    from torch import nn

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.plan import Plan
    from trainers.nets.primus import PrimusConfig
    from trainers.nets.resenc import ResEncConfig

# Of an encoder's configuration: what the plan says elsewhere, and what only pre-training knows.
ELSEWHERE = {"channels_in", "channels_out", "patch", "published_order"}


def network(plan: Plan) -> nn.Module:
    """Return the untrained net of a plan: images (B, C + 1, Z, Y, X) to logits (B, k), one tensor a label.

    Raises `TrainingError` where the plan's images are too small for it.
    """
    net, channels = plan.net, len(plan.channels) + 1
    if net.encoder == "i3d":
        return I3D(
            I3DConfig(
                channels=channels, classes=plan.classes, width=net.width, norm=net.norm, pool=net.pool,
                dropout=net.dropout,
            )
        )  # fmt: skip
    # Here, because the library of ResEnc takes longer to import than a small I3D to answer.
    from trainers.nets.pooled import PooledPrimus, PooledResEnc
    from trainers.nets.resenc import ResEncConfig

    config = encoder_config(net, channels, plan.image_size)
    if not isinstance(config, ResEncConfig):
        return PooledPrimus(config, plan.classes, net.dropout)
    if max(plan.image_size) <= config.reduction:
        raise TrainingError(
            f"images of {' x '.join(map(str, plan.image_size))} voxels are too small for a ResEnc of "
            f"{len(config.features)} stages, which halves them {len(config.features) - 1} times",
            hint="plan finer images (--set spacing=[1,1,1]), or fewer stages (encoder_options)",
        )
    return PooledResEnc(config, plan.classes, net.dropout)


def encoder_config(net: PlannedNet, channels: int, image_size: tuple[int, int, int]) -> ResEncConfig | PrimusConfig:
    """Return the configuration of a ResEnc or a Primus; raise `TrainingError` for options that it does not have."""
    from trainers.nets.primus import PrimusConfig
    from trainers.nets.resenc import ResEncConfig

    kind: Any = ResEncConfig if net.encoder == "resenc" else PrimusConfig
    known = [name for name in kind.__dataclass_fields__ if name not in ELSEWHERE]
    if unknown := sorted(set(net.options) - set(known)):
        raise TrainingError(
            f"encoder {net.encoder} has no option {unknown[0]!r}", hint=f"there are: {', '.join(known)}"
        )
    about: dict[str, Any] = {**net.options, "channels_in": channels}
    try:
        if kind is PrimusConfig:
            token = int(net.options.get("token", PrimusConfig.token))
            about["patch"] = tuple(-(-size // token) * token for size in image_size)
        found: ResEncConfig | PrimusConfig = TypeAdapter(kind).validate_python(about)
    except (ValidationError, ValueError, TypeError, ZeroDivisionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise TrainingError(f"encoder {net.encoder}: {str(why).removeprefix('Value error, ')}") from error
    return found


def planned_net(settings: ClassificationSettings, pretrained: ResEncConfig | PrimusConfig | None = None) -> PlannedNet:
    """Return the net that the settings ask for, or that with a pre-trained encoder, and every size of it."""
    said = settings.resolved()
    same = {key: getattr(said, key) for key in ("width", "norm", "pool", "dropout")}
    net = PlannedNet.model_validate({**same, "encoder": said.encoder or "i3d", "options": said.encoder_options})
    if pretrained is None and net.encoder == "i3d":
        return net
    from trainers.nets.resenc import ResEncConfig

    encoder = pretrained or encoder_config(net, 1, (1, 1, 1))
    options = {key: value for key, value in asdict(encoder).items() if key not in ELSEWHERE}
    name = "resenc" if isinstance(encoder, ResEncConfig) else "primus"
    return PlannedNet.model_validate({**net.model_dump(), "encoder": name, "options": options})
