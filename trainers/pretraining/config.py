"""Settings of the `pretrain` recipe, checked before anything is computed. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]

METHOD_NAMES = ("voco", "volume_fusion", "models_genesis", "mae", "s3d", "simmim", "swin_unetr", "simclr")
IMPOSSIBLE = {
    ("s3d", "primus"): "S3D makes a convolutional encoder skip what is hidden; a Transformer does so with mae",
    ("simmim", "resenc"): "SimMIM replaces tokens, and a convolutional encoder has none; mae hides blocks from it",
}
PAIRS = tuple((m, e) for m in METHOD_NAMES for e in ("resenc", "primus") if (m, e) not in IMPOSSIBLE)

# What an encoder is trained with where the user says nothing, and what the tiny profile changes.
OPTIMISERS: dict[str, dict[str, Any]] = {
    "resenc": {"name": "sgd", "lr": 1e-2, "momentum": 0.99, "weight_decay": 3e-5, "warmup": 0},
    "primus": {"name": "adamw", "lr": 3e-4, "betas": (0.9, 0.98), "weight_decay": 5e-2, "warmup": 50},
}
LENGTHS: dict[str, dict[str, int]] = {
    "full": {"epochs": 1000, "iterations": 250, "val_iterations": 50},
    "tiny": {"epochs": 2, "iterations": 3, "val_iterations": 2, "batch_size": 2},
}
TINY_ENCODERS: dict[str, dict[str, Any]] = {
    "resenc": {"features": (8, 16, 16), "blocks": (1, 1, 1)},
    "primus": {"width": 48, "depth": 2, "heads": 4, "token": 8},
}
SHORTEST_WARMUP_SHARE = 0.1  # of a training that is shorter than the warm-up


class PretrainingSettings(BaseModel):
    """What `[train]` of model.toml and `--set KEY=VALUE` may say for recipe `pretrain`.

    None means: as the papers of method and encoder say, or the profile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal[METHOD_NAMES] = Field("mae", description="method of pre-training")  # type: ignore[valid-type]
    encoder: Literal["resenc", "primus"] = Field("resenc", description="ResEnc-L (convolutions) or Primus-M (tokens)")
    profile: Literal["full", "tiny"] = Field(
        "full", description="sizes and lengths of the papers, or tiny ones to try things out"
    )
    method_options: dict[str, Any] = Field(
        {}, description="hyper-parameters of the method, for example {mask_ratio = 0.6}"
    )
    encoder_options: dict[str, Any] = Field(
        {}, description="size of the encoder, for example {depth = 12} or {features = [32, 64, 128]}"
    )
    configuration: Literal["onemmiso", "median", "noresample"] = Field(
        "onemmiso", description="voxel size of the preprocessed images: 1 mm, the median, or their own"
    )
    orientation: str | None = Field(
        "LPI", pattern="^[RLAPIS]{3}$", description="orientation that images are brought to, in SCT's letters"
    )
    keep_orientation: bool = Field(False, description="leave the images' orientations as they are, as nnssl does")
    leave_out_anonymised: bool = Field(
        False, description="leave voxels of anonymisation masks out of the loss (mae, s3d, simmim, models_genesis)"
    )
    centre_on_anatomy: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of patches that are centred on a voxel of the anatomy mask, where an image has one"
    )
    modalities: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="train on images of these modalities alone, for example T1w (default: on all)"
    )
    worst_quality: Annotated[float, Field(gt=0)] | None = Field(
        None, description="train on images of at most this quality score alone (OpenMind: 1 is best, 5 is worst)"
    )
    folds: tuple[Literal["all"], ...] = Field(("all",), min_length=1, description="always one network on every subject")
    epochs: Positive | None = Field(None, description="epochs (default: 1000)")
    iterations: Positive | None = Field(None, description="steps an epoch (default: 250)")
    val_iterations: Positive | None = Field(None, description="batches of a validation (default: 50)")
    batch_size: Positive | None = Field(None, description="images a step, over all GPUs (default: 8, simclr: 32)")
    lr: Rate | None = Field(None, description="learning rate after the warm-up (default: resenc 0.01, primus 0.0003)")
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="weight decay (default: resenc 0.00003, primus 0.05)"
    )
    warmup: Annotated[float, Field(ge=0)] | None = Field(
        None, description="epochs of linear rise (default: resenc 0, primus 50, at most a tenth of a short training)"
    )
    seed: Annotated[int, Field(ge=0)] = Field(12345, description="seed of weights, patches and views")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train; auto takes the best")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="threads that read patches ahead; 0 reads them between the steps, as on a CPU"
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="numbers to compute in; auto: bf16 where the hardware has it, else fp32"
    )
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        5.0, description="longest stretch of training that a kill may cost; 0 saves after every epoch"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="services that show the numbers too")

    @model_validator(mode="after")
    def _method_and_encoder_go_together(self) -> Self:
        if reason := IMPOSSIBLE.get((self.method, self.encoder)):
            raise ValueError(f"method {self.method!r} with encoder {self.encoder!r}: {reason}")
        return self

    def length(self, name: str) -> int:
        """Return `epochs`, `iterations` or `val_iterations`, the profile's where nothing is set."""
        value: int = getattr(self, name) or LENGTHS[self.profile][name]
        return value

    def optimiser(self, clip: float | None) -> dict[str, Any]:
        """Return what the loop's optimiser is told, with the method's longest gradient."""
        chosen = {**OPTIMISERS[self.encoder], "clip": clip, "schedule": "poly", "by_epoch": True}
        chosen["warmup"] = min(chosen["warmup"], int(self.length("epochs") * SHORTEST_WARMUP_SHARE))
        own = {"lr": self.lr, "weight_decay": self.weight_decay, "warmup": self.warmup}
        return {**chosen, **{key: value for key, value in own.items() if value is not None}}
