"""The methods of pre-training by name, and the encoders that each is made for."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from trainers.core.errors import TrainingError
from trainers.pretraining.config import IMPOSSIBLE, PAIRS
from trainers.pretraining.methods.mae import MAE
from trainers.pretraining.methods.models_genesis import ModelsGenesis
from trainers.pretraining.methods.s3d import S3D
from trainers.pretraining.methods.simclr import SimCLR
from trainers.pretraining.methods.simmim import SimMIM
from trainers.pretraining.methods.swin_unetr import SwinUNETR
from trainers.pretraining.methods.voco import VoCo
from trainers.pretraining.methods.volume_fusion import VolumeFusion

if TYPE_CHECKING:
    from trainers.pretraining.method import Method

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (VoCo, VolumeFusion, ModelsGenesis, MAE, S3D, SimMIM, SwinUNETR, SimCLR)
}


def check_pair(method: str, encoder: str) -> None:
    """Raise `TrainingError` for a method and an encoder that do not go together."""
    if (method, encoder) not in PAIRS:
        usable = ", ".join(name for name, other in PAIRS if other == encoder)
        raise TrainingError(
            f"method {method!r} with encoder {encoder!r}: {IMPOSSIBLE[method, encoder]}",
            hint=f"methods for {encoder}: {usable}",
        )


def make(name: str, encoder: str, *, tiny: bool = False, options: dict[str, Any] | None = None) -> Method:
    """Return a method with the paper's hyper-parameters, or small ones, changed by `options`; raise `TrainingError`."""
    check_pair(name, encoder)
    kind: Any = METHODS[name]
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(options or {}) - known):
        raise TrainingError(
            f"method {name} has no option {unknown[0]!r}", hint=f"its options are: {', '.join(sorted(known))}"
        )
    values = {**kind.with_encoder.get(encoder, {}), **(kind.tiny if tiny else {}), **(options or {})}
    try:
        made: Method = TypeAdapter(kind).validate_python(values)
    except ValueError as error:
        raise TrainingError(f"method {name}: {error}") from error
    return made
