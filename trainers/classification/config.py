"""Settings of the `classification` recipe, checked before anything is computed. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]

# What a profile says where the user says nothing. auc23 is the baseline of the AUC23 challenge; default converges on
# sets of a few dozen cases, where 160 steps of auc23 with batches of two do not; tiny does so within minutes on a CPU.
PROFILES: dict[str, dict[str, Any]] = {
    "default": {
        "epochs": 60, "iterations": 10, "batch_size": None, "optimiser": "adamw", "lr": 1e-3, "momentum": 0.9,
        "weight_decay": 1e-2, "schedule": "cosine", "warmup": 1.0, "norm": "batch", "pool": "global",
        "class_weights": True, "label_smoothing": 0.0, "width": 1.0, "max_voxels": 240**3,
    },
    "tiny": {
        "epochs": 20, "iterations": 10, "batch_size": None, "optimiser": "adamw", "lr": 2e-3, "momentum": 0.9,
        "weight_decay": 1e-2, "schedule": "cosine", "warmup": 1.0, "norm": "batch", "pool": "global",
        "class_weights": True, "label_smoothing": 0.0, "width": 0.25, "max_voxels": 15_000,
    },
    "auc23": {
        "epochs": 200, "iterations": 250, "batch_size": None, "optimiser": "sgd", "lr": 1e-2, "momentum": 0.99,
        "weight_decay": 3e-5, "schedule": "poly", "warmup": 0.0, "norm": "batch", "pool": "video",
        "class_weights": False, "label_smoothing": 0.0, "width": 1.0, "max_voxels": 240**3,
    },
}  # fmt: skip
FINE_TUNING_RATE = 1e-4  # of weights that were trained before
TRANSFORMER_RATE = 3e-4  # of a Primus that was not, as in its pre-training


class ClassificationSettings(BaseModel):
    """What `[train]` of model.toml and `--set KEY=VALUE` may say for recipe `classification`.

    None means: as the profile says, or as it is planned from the images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Literal["default", "tiny", "auc23"] = Field(
        "default", description="where the other settings come from: default, tiny for a CPU, auc23 the baseline's"
    )
    folds: tuple[Annotated[int, Field(ge=0)] | Literal["all"], ...] = Field(
        (0, 1, 2, 3, 4), min_length=1, description='folds to train, or ["all"] for one network on every case'
    )
    num_folds: Annotated[int, Field(ge=2)] = Field(5, description="folds that the cases are split into")
    epochs: Positive | None = Field(None, description="epochs (default: 60, tiny: 20, auc23: 200)")
    iterations: Positive | None = Field(None, description="steps an epoch (default: 10, tiny: 10, auc23: 250)")
    batch_size: Annotated[int, Field(ge=2)] | None = Field(None, description="cases a step; planned from memory_gib")
    memory_gib: Annotated[float, Field(gt=0)] = Field(8.0, description="memory that a step may take")
    image_size: tuple[Positive, Positive, Positive] | None = Field(
        None, description="voxels that the net sees, in the plan's axis order; planned to hold every case"
    )
    max_voxels: Positive | None = Field(
        None, description="images are planned coarser until they have no more voxels (default: 13824000, tiny: 15000)"
    )
    spacing: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=3, max_length=3, description="voxel size in mm along z, y and x; planned from the images"
    )
    roi_margin: Annotated[float, Field(ge=0)] = Field(
        0.05, description="share of the region's extent that is kept around it, at least one voxel; 0 keeps none"
    )
    mask_outside_roi: bool = Field(False, description="set what lies outside the region of interest to 0 (not CT)")
    mirror: tuple[Literal["RL", "AP", "IS"], ...] | None = Field(
        None, description="axes that are mirrored in training; all, without RL where a label speaks of left or right"
    )
    augment: bool = Field(True, description="whether training images are changed at random")
    encoder: Literal["i3d", "resenc", "primus"] | None = Field(
        None, description="network: I3D, ResEnc-L or Primus-M (default: i3d; with start_from that of the checkpoint)"
    )
    encoder_options: dict[str, Any] = Field(
        {}, description="size of a resenc or primus, for example {features = [32, 64, 128], blocks = [1, 3, 4]}"
    )
    start_from: str | None = Field(
        None, description="pre-trained encoder to start from: release, archive, run or checkpoint; --from sets it"
    )
    fine_tuning: Literal["full", "frozen", "linear"] = Field(
        "full", description="with start_from: all weights learn; frozen: stem and heads alone; linear: the heads alone"
    )
    from_scratch: bool = Field(False, description="with start_from: the same training without the pre-trained weights")
    width: Annotated[float, Field(gt=0)] | None = Field(
        None, description="channels of the net as a share of I3D's (default: 1, tiny: 0.25)"
    )
    norm: Literal["batch", "group"] | None = Field(None, description="normalisation in I3D")
    pool: Literal["global", "video"] | None = Field(
        None, description="in I3D: mean over all places, or over windows of 2 x 2 x 7 first, as AUC23's net does"
    )
    dropout: Share = Field(0.0, description="dropout before the heads")
    optimiser: Literal["sgd", "adamw"] | None = Field(None, description="optimiser")
    lr: Annotated[float, Field(gt=0)] | None = Field(
        None, description="learning rate (default: 0.001, tiny: 0.002, auc23: 0.01; primus 0.0003; fine-tuning 0.0001)"
    )
    momentum: Share | None = Field(None, description="momentum of sgd")
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(None, description="weight decay")
    schedule: Literal["poly", "cosine", "constant"] | None = Field(None, description="decay of the learning rate")
    warmup: Annotated[float, Field(ge=0)] | None = Field(None, description="epochs of rise from 0")
    class_weights: bool | None = Field(None, description="weigh rare classes more (default: yes, auc23: no)")
    label_smoothing: Share | None = Field(None, description="share of each target that goes to all classes")
    seed: Annotated[int, Field(ge=0)] = Field(12345, description="seed of weights, folds, cases and augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train; auto takes the best")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="numbers to compute in")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        5.0, description="longest stretch of training that a kill may cost; 0 saves after every epoch"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="services that show the numbers too")

    @model_validator(mode="after")
    def _one_source_says_the_encoder(self) -> Self:
        if self.start_from and (self.encoder == "i3d" or self.encoder_options):
            raise ValueError("start_from sets the encoder: encoder i3d and encoder_options do not go with it")
        if self.encoder_options and self.encoder in {None, "i3d"}:
            raise ValueError("encoder_options are of encoder resenc or primus; width sets the size of i3d")
        return self

    @property
    def is_i3d(self) -> bool:
        """Whether the network is I3D, and not an encoder of pre-training."""
        return self.encoder in {None, "i3d"} and not self.start_from

    @property
    def starts_pretrained(self) -> bool:
        """Whether the training starts from weights that were trained before."""
        return bool(self.start_from) and not self.from_scratch

    def resolved(self) -> ClassificationSettings:
        """Return the settings with what the profile says where the user said nothing."""
        said = self.model_dump()
        missing = {key: value for key, value in PROFILES[self.profile].items() if said[key] is None}
        if "lr" in missing and self.profile != "auc23":
            if self.starts_pretrained and self.fine_tuning == "full":
                missing["lr"] = FINE_TUNING_RATE
            elif self.encoder == "primus" and not self.starts_pretrained:
                missing["lr"] = TRANSFORMER_RATE
        return self.model_copy(update=missing)
