"""Settings of the `lesion` recipe, checked before anything is computed. Needs no torch."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from trainers.segmentation.config import SegmentationSettings

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(ge=0)]

PLANS = "LesionPlans"
TRAINER = "LesionTrainer"
FACES = ("superior", "inferior", "left", "right", "anterior", "posterior")


class GeometrySettings(BaseModel):
    """What is cut out of an image and how fine; saved with a model, since a prediction needs the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: Literal["window", "box", "none"] = Field(
        "window", description="window: follows the cord; box: one box around it; none: the whole image"
    )
    spacing: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.5, 0.5, 0.5), min_length=3, max_length=3, description="voxel size in mm, along R-L, P-A and I-S"
    )
    alignment: Literal["centre", "sct"] = Field(
        "centre", description="grid of the resampled image: around its centre, or as the Spinal Cord Toolbox places it"
    )
    window: Positive = Field(48, description="voxels of the window's edge in an axial slice")
    margin: Annotated[int, Field(ge=0)] = Field(
        12, description="voxels around the window that training may turn and shift into it"
    )
    hold_mm: Millimetres = Field(10.0, description="how far beyond its ends the centreline goes on")
    pads_mm: tuple[Millimetres, ...] = Field(
        (40, 100, 15, 15, 15, 22), min_length=6, max_length=6,
        description="crop = box: mm around the cord, superior, inferior, left, right, anterior, posterior",
    )  # fmt: skip

    @property
    def pads(self) -> dict[str, float]:
        """Return the mm around the cord by face."""
        return dict(zip(FACES, self.pads_mm, strict=True))


class LesionSettings(GeometrySettings):
    """What `[train]` of model.toml and `--set KEY=VALUE` may say for recipe `lesion`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lesion_label: str = Field("lesion", description="name of the lesion label in an nnU-Net dataset")
    cord_label: str = Field("sc", description="name of the cord label there, for the centreline")
    centreline: Literal["mask", "sct"] = Field(
        "mask", description="of a case without a cord: an error, or what sct_get_centerline finds"
    )
    cord_model: str = Field(
        "", description="released model that finds the cord in training and prediction, NAME@TAG; else masks do"
    )
    intensity: Literal["nyul", "zscore", "sct-t2", "sct-t2_ax", "sct-t2s"] = Field(
        "nyul", description="landmarks fitted on the training cases, a z-score, or landmarks that SCT published"
    )
    net: Literal["unet", "resenc"] = Field("unet", description="3D U-Net of the first lesion models, or ResEnc")
    base: Positive = Field(16, description="unet: channels of the first convolution")
    depth: Annotated[int, Field(ge=2, le=6)] = Field(3, description="unet: levels; resenc: stages")
    features: tuple[Positive, ...] = Field(
        (32, 64, 128, 256, 320, 320), description="resenc: channels of each stage, as many as depth says"
    )
    blocks: tuple[Positive, ...] = Field((1, 3, 4, 6, 6, 6), description="resenc: residual blocks of each stage")
    start_from: str = Field(
        "", description="release, run or checkpoint of this recipe or of a pre-trained ResEnc; --from sets it"
    )
    norm: Literal["instance", "batch"] = Field("instance", description="unet: normalisation")
    patch: tuple[Positive, ...] = Field(
        (48, 48, 48), min_length=3, max_length=3, description="patch in voxels, along z, y, x"
    )
    loss: Literal["dice", "dice_ce"] = Field("dice_ce", description="soft Dice, or with cross-entropy")
    lesion_share: Share = Field(0.7, description="share of patches drawn around a lesion voxel")
    shift: Annotated[int, Field(ge=0)] = Field(10, description="voxels that a patch may stand off the cord")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(20.0, description="largest rotation in degrees; 0 for none")
    elastic: Annotated[float, Field(ge=0)] = Field(1.5, description="largest elastic displacement (SD) in voxels")
    mirror: tuple[Literal["RL", "AP", "IS"], ...] = Field(
        ("RL", "AP", "IS"), description="axes that are flipped; leave RL out where a label says left or right"
    )
    folds: tuple[Annotated[int, Field(ge=0)] | Literal["all"], ...] = Field(
        (0,), min_length=1, description='folds to train, or ["all"] for one network on every case'
    )
    epochs: Positive = Field(250, description="epochs")
    iterations: Positive = Field(100, description="steps an epoch")
    batch_size: Positive = Field(2, description="patches a step")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="optimiser")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="decay of the learning rate")
    validate_every: Positive = Field(5, description="epochs between validations on whole cases")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="share that neighbouring patches share")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights; 0 for none")
    seed: Annotated[int, Field(ge=0)] = Field(12345, description="seed of weights, patches and augmentation")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train; auto takes the best")
    sheets: Annotated[int, Field(ge=0)] = Field(24, description="cases of which a picture of the window is drawn")
    shown: Annotated[int, Field(ge=0)] = Field(
        6, description="cases in the figure of predictions, which card and archive get; 0 for no figure"
    )
    nnunet: dict[str, JsonValue] = Field({}, description="settings of recipe nnunet for mreg train --as nnunet")
    workers: Annotated[int, Field(ge=0)] = Field(0, description="threads that read patches ahead")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="numbers to compute in")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        5.0, description="longest stretch of training that a kill may cost; 0 saves after every epoch"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="services that show the numbers too")

    @property
    def geometry(self) -> GeometrySettings:
        """Return what is cut out, and how fine."""
        return GeometrySettings.model_validate({key: getattr(self, key) for key in GeometrySettings.model_fields})

    @field_validator("nnunet")
    @classmethod
    def _nnunet_knows_them(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        SegmentationSettings.model_validate_json(json.dumps(value), strict=True)
        return value

    @model_validator(mode="after")
    def _fits(self) -> LesionSettings:
        """Refuse patches that the net cannot halve or that are wider than the window, and nets without all stages."""
        if min(len(self.features), len(self.blocks)) < self.depth:
            raise ValueError(f"features and blocks are shorter than depth = {self.depth}")
        step = 2 ** (self.depth - 1)
        if any(size % step for size in self.patch):
            raise ValueError(f"patch {self.patch} is not divisible by {step}, as a net of depth {self.depth} needs")
        if self.crop == "window" and self.patch[1:] != (self.window,) * 2:
            raise ValueError(f"patch {self.patch}: the window is {self.window} voxels wide along y and x")
        return self
