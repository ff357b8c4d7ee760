"""Starting a network from a pre-trained encoder: which weights it takes, and how fast they may change at first.

Schedules are those of the OpenMind benchmark (Wald et al. 2025): a linear warm-up of everything, or of the decoder
alone at first (sawtooth), or an encoder that never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from trainers.core.errors import TrainingError
from trainers.core.optimisers import POLY_POWER
from trainers.nets.positions import resized_table, unswapped
from trainers.nets.primus import ENCODER_KEY, Primus, PrimusConfig
from trainers.pretraining.checkpoint import encoder_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from trainers.pretraining.checkpoint import Pretrained

Mode = Literal["warmup", "sawtooth", "frozen", "default"]
ALIASES = (".conv.", ".all_modules.0.")  # two names of one convolution of a ResEnc
LONGEST_WARMUP, WARMUP_SHARE = 50, 0.1
OWN = "mreg_"  # how names of our trainers begin


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the weights of a checkpoint and of a network."""

    used: tuple[str, ...]  # keys of the network that were taken
    changed: dict[str, str]  # of these: what was done to them
    skipped: tuple[str, ...]  # keys of the checkpoint that were not taken
    new: tuple[str, ...]  # keys of the network that start anew

    @property
    def summary(self) -> str:
        """Return one line for people."""
        changes = "".join(f"; {key} {change}" for key, change in sorted(self.changed.items()))
        return f"{len(self.used)} weights taken, {len(self.skipped)} left, {len(self.new)} start anew{changes}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rates of a fine-tuning by epoch; `lr` is what the warm-up reaches."""

    mode: Mode
    lr: float
    epochs: int

    @property
    def warmup(self) -> int:
        """Return the epochs of a linear rise: 50 of 1000, 15 of 150."""
        return 0 if self.mode in {"frozen", "default"} else min(LONGEST_WARMUP, round(self.epochs * WARMUP_SHARE))

    @property
    def decoder_first(self) -> int:
        """Return the epochs in which the decoder alone is trained."""
        return self.warmup if self.mode == "sawtooth" else 0

    def encoder_learns(self, epoch: int) -> bool:
        """Whether the encoder's weights change in an epoch."""
        return self.mode != "frozen" and epoch >= self.decoder_first

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        if epoch < self.decoder_first:
            return _rise_and_fall(self.lr, epoch, self.decoder_first // 2, self.decoder_first)
        first = self.decoder_first
        return _rise_and_fall(self.lr, epoch - first, self.warmup, self.epochs - first)


def _rise_and_fall(lr: float, epoch: int, warmup: int, epochs: int) -> float:
    """Return a rate that rises linearly for `warmup` epochs and falls polynomially to 0 at `epochs`."""
    if epoch < warmup:
        return lr / warmup * (epoch + 1)
    return float(lr * (1 - (epoch - warmup) / max(1, epochs - warmup)) ** POLY_POWER)


class Rates:
    """A scheduler as nnU-Net calls it, once an epoch with its number.

    `plan` says what the encoder is, where a schedule holds it fast; None for a network without one.
    """

    def __init__(
        self, optimiser: Any, network: nn.Module, schedule: Schedule, plan: Mapping[str, Any] | None = None
    ) -> None:
        self.optimiser, self.network, self.schedule, self.plan = optimiser, network, schedule, plan
        self._learns: bool | None = None

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch, and whether the encoder learns."""
        learns = self.schedule.encoder_learns(epoch)
        if self.plan is not None and learns != self._learns:
            freeze(self.network, self.plan, learns=learns)
            self._learns = learns
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(epoch)


def start_from(network: nn.Module, pretrained: Pretrained, *, swapped: bool | None = None) -> Report:
    """Load encoder and stem of a checkpoint into a network that has them under the plain names; return what was done.

    A stem for more channels repeats the weights and divides them by the number of channels; a table of places for
    another patch is interpolated. `swapped` says whether a Primus numbers its tokens as nnssl does (None: by the name
    of the trainer). Raises `TrainingError` where anything of the encoder is missing or has another shape.
    """
    plan, net = pretrained.plan, encoder_of(pretrained.plan)
    prefix = "encoder." if plan["key_to_encoder"] == f"encoder.{ENCODER_KEY}" else ""
    weights = {key.removeprefix(prefix): value for key, value in pretrained.weights.items() if key.startswith(prefix)}
    weights = {key: torch.as_tensor(value) for key, value in weights.items()}
    changed: dict[str, str] = {}
    if isinstance(net, PrimusConfig):
        if _is_swapped(pretrained.trainer_name) if swapped is None else swapped:
            weights = unswapped(weights, ENCODER_KEY, net.grid, net.heads)
            changed[f"{ENCODER_KEY}.pos_embed"] = "brought into our order of tokens"
    else:
        weights = _trained_aliases(weights, changed)
    parts = [plan[key].removeprefix(prefix) + "." for key in ("key_to_encoder", "key_to_stem")]
    own = network.state_dict()
    wanted = [key for key in own if key.startswith(tuple(parts))]
    if not wanted or {key.split(".")[0] for key in wanted} != {part.split(".")[0] for part in parts}:
        raise TrainingError(f"the network has no {' and no '.join(parts)}: it is not built for this checkpoint")
    inputs = {f"{key.removeprefix(prefix)}.weight" for key in plan["keys_to_in_proj"]}
    taken = {}
    for key in wanted:
        if key not in weights:
            raise TrainingError(f"the checkpoint has no {prefix}{key}", hint="it does not fit its own plan")
        taken[key] = _fitted(key, weights[key], own[key], inputs, (network, net), changed)
    network.load_state_dict(taken, strict=False)
    left = (key for key in pretrained.weights if key.removeprefix(prefix) not in taken)
    return Report(
        used=tuple(taken), changed=changed, skipped=tuple(left), new=tuple(key for key in own if key not in taken)
    )


def _is_swapped(trainer: str) -> bool:
    """Whether a trainer of nnssl numbers the tokens with two axes swapped: all of them but SimMIM's."""
    return not trainer.startswith(OWN) and "simmim" not in trainer.lower()


def _trained_aliases(weights: Mapping[str, Tensor], changed: dict[str, str]) -> dict[str, Tensor]:
    """Return weights in which both names of a convolution hold what was trained.

    nnssl's S3D trains what stands under `all_modules.0`; what stands under `conv` was never touched.
    """
    found = dict(weights)
    for key in weights:
        other = key.replace(*ALIASES)
        if other != key and other in weights and not torch.equal(weights[key], weights[other]):
            found[key] = weights[other]
            changed[key] = "was never trained; its other name was"
    return found


def _fitted(
    key: str, value: Tensor, own: Tensor, inputs: set[str], nets: tuple[nn.Module, Any], changed: dict[str, str]
) -> Tensor:
    """Return a weight in the network's shape."""
    if value.shape == own.shape:
        return value
    channels = own.shape[1] if own.ndim > 1 else 0
    if key in inputs and value.shape[1] == 1 and value.shape[2:] == own.shape[2:] and len(value) == len(own):
        changed[key] = f"repeated for {channels} channels"
        return value.repeat(1, channels, *[1] * (value.ndim - 2)) / channels
    network, net = nets
    if key == f"{ENCODER_KEY}.pos_embed" and isinstance(network, Primus):
        before = (key in changed and f"{changed[key]}, ") or ""
        changed[key] = f"{before}resized from {net.grid} to {network.config.grid} tokens"
        return resized_table(value, net.grid, network.config.grid)
    raise TrainingError(f"{key} is {tuple(value.shape)} in the checkpoint and {tuple(own.shape)} in the network")


def freeze(network: nn.Module, plan: Mapping[str, Any], *, learns: bool) -> None:
    """Let the encoder's weights change or not; a stem for other channels belongs to the decoder."""
    prefix = "encoder." if plan["key_to_encoder"] == f"encoder.{ENCODER_KEY}" else ""
    first = plan["keys_to_in_proj"][0].removeprefix(prefix) + ".weight"
    parameters = dict(network.named_parameters())
    parts = [plan["key_to_encoder"]]
    if parameters[first].shape[1] == plan["pretrain_num_input_channels"]:
        parts.append(plan["key_to_stem"])
    for key, parameter in parameters.items():
        if key.startswith(tuple(f"{part.removeprefix(prefix)}." for part in parts)):
            parameter.requires_grad_(learns)
