"""Settings of the `nnunet` recipe, checked before anything is computed. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PLANNERS = {
    "default": "ExperimentPlanner",
    "resenc_m": "nnUNetPlannerResEncM",
    "resenc_l": "nnUNetPlannerResEncL",
    "resenc_xl": "nnUNetPlannerResEncXL",
}
PLANS_NAMES = {
    "default": "nnUNetPlans",
    "resenc_m": "nnUNetResEncUNetMPlans",
    "resenc_l": "nnUNetResEncUNetLPlans",
    "resenc_xl": "nnUNetResEncUNetXLPlans",
}
STOCK = "nnUNetTrainer"
PRIMUS_TRAINERS = {f"nnUNet_Primus_{size}_Trainer": size for size in "SBML"}  # nnU-Net's names
OTHER_PRIMUS = "nnUNetTrainer_Primus"  # of any other size
Positive = Annotated[int, Field(ge=1)]


class SegmentationSettings(BaseModel):
    """What `[train]` of model.toml and `--set KEY=VALUE` may say for recipe `nnunet`.

    None means: as nnU-Net plans it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] = Field(
        "3d_fullres", description="nnU-Net configuration to train"
    )
    planner: Literal["default", "resenc_m", "resenc_l", "resenc_xl"] = Field(
        "default", description="nnU-Net's planner: the default U-Net or a residual-encoder preset"
    )
    trainer: str = Field(
        STOCK,
        pattern=r"^(nnUNetTrainer\w*|nnUNet_Primus_[SBML]_Trainer)$",
        description="trainer class: one of nnU-Net's, or the one in the repo's trainer_class.py; "
        "nnUNet_Primus_M_Trainer trains a Transformer",
    )
    folds: tuple[Annotated[int, Field(ge=0)] | Literal["all"], ...] = Field(
        (0,), min_length=1, description='folds to train, or ["all"] for one network on every case'
    )
    epochs: Positive | None = Field(None, description="epochs (nnU-Net: 1000)")
    iterations: Positive | None = Field(None, description="training iterations an epoch (nnU-Net: 250)")
    val_iterations: Positive | None = Field(None, description="validation iterations an epoch (nnU-Net: 50)")
    batch_size: Positive | None = Field(None, description="patches a step")
    patch_size: tuple[Positive, ...] | None = Field(
        None, min_length=2, max_length=3, description="patch in voxels, in nnU-Net's axis order (z, y, x)"
    )
    features: tuple[Positive, ...] | None = Field(
        None, min_length=3, description="channels of each resolution stage (at least 3), for nets smaller than planned"
    )
    initial_lr: Annotated[float, Field(gt=0)] | None = Field(None, description="initial learning rate (nnU-Net: 0.01)")
    start_from: str | None = Field(
        None, description="pre-trained encoder to start from: release, archive, run or checkpoint; --from sets it"
    )
    fine_tuning: Literal["warmup", "sawtooth", "frozen", "default"] = Field(
        "warmup",
        description="with start_from: rates rise first; sawtooth: the decoder alone first; frozen: never the encoder",
    )
    from_scratch: bool = Field(False, description="with start_from: the same training without the pre-trained weights")
    seed: Annotated[int, Field(ge=0)] = Field(12345, description="seed of weights, patches and augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train; auto takes the best")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="threads that read patches ahead; 0 reads them between the steps, as on a CPU"
    )
    precision: Literal["auto", "bf16", "native"] = Field(
        "auto", description="bf16, or native: nnU-Net's own (CUDA: fp16, CPU: fp32); auto: bf16 if the hardware has it"
    )
    compile: bool | None = Field(None, description="torch.compile the network (nnU-Net: on CUDA)")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        5.0, description="longest stretch of training that a kill may cost; 0 saves after every epoch"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="services that show the numbers too")

    @field_validator("configuration", mode="before")
    @classmethod
    def _no_cascades(cls, value: object) -> object:
        if value == "3d_cascade_fullres":
            raise ValueError("the second stage of a cascade is not trained here: take 3d_fullres, or 3d_lowres alone")
        return value

    @model_validator(mode="after")
    def _an_encoder_sets_the_network(self) -> Self:
        if self.start_from and (self.configuration == "2d" or self.features is not None):
            raise ValueError("start_from sets the network: configuration 2d and features do not go with it")
        return self
