"""The weights that a network has, worked out from plans.json without building it and without torch.

Covers the two networks that nnU-Net's planners choose, as dynamic-network-architectures names their parts. A U-Net's
weights have several names each: every convolution and normalisation is listed a second time in `all_modules`, and the
decoder lists the encoder again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shapes = dict[str, tuple[int, ...]]
PACKAGE = "dynamic_network_architectures.architectures.unet."
WITHOUT_WEIGHTS = {"LeakyReLU", "ReLU", "ReLU6", "SiLU", "GELU", "ELU", "Mish", "SELU"}
COMMON = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias",
    "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "deep_supervision",
}  # fmt: skip
COUNTS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
MOST_STAGES, MOST_LAYERS = 20, 100  # more than any image has room for
PLANE, VOLUME = 2, 3


class UnknownNetworkError(Exception):
    """A network that this module cannot work out."""


def shapes(architecture: Mapping[str, Any], inputs: int, heads: int) -> Shapes:
    """Return name → shape of every weight and buffer of the network that `architecture` of a configuration describes.

    `inputs` and `heads` are the numbers of channels that go in and come out. Raises `UnknownNetworkError`.
    """
    try:
        return dict(_UNet.of(architecture).weights(inputs, heads))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UnknownNetworkError(str(error)) from error


@dataclass(frozen=True)
class _Layer:
    """What the convolutions of a network have in common."""

    dimensions: int
    bias: bool
    norm: tuple[str, ...]  # names of the weights and buffers of a normalisation
    dropout: bool
    nonlin: bool
    nonlin_first: bool

    def weights(self, prefix: str, inputs: int, outputs: int, kernel: Any, *, bare: bool = False) -> Iterator[Any]:
        """Yield a convolution with its normalisation; a `bare` one has neither dropout nor non-linearity."""
        conv = {"weight": (outputs, inputs, *_each(kernel, self.dimensions))}
        if self.bias:
            conv["bias"] = (outputs,)
        norm = {name: () if name == "num_batches_tracked" else (outputs,) for name in self.norm}
        at = 1 + (self.dropout and not bare)
        if self.nonlin_first and self.nonlin and not bare:
            at += 1
        for kind, place, weights in (("conv", 0, conv), ("norm", at, norm)):
            for name, shape in weights.items():
                yield f"{prefix}{kind}.{name}", shape
                yield f"{prefix}all_modules.{place}.{name}", shape


@dataclass(frozen=True)
class _UNet:
    """A U-Net's plan, one entry a stage."""

    residual: bool
    layer: _Layer
    features: list[int]
    kernels: list[Any]
    strides: list[Any]
    counts: list[int]  # convolutions or blocks of the encoder
    counts_up: list[int]
    stem: int

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> _UNet:
        """Read a plan; raise for one that is none, or that says more than this module knows."""
        name = architecture["network_class_name"].removeprefix(PACKAGE)
        keywords = architecture["arch_kwargs"]
        count = COUNTS[name]
        more = {count, "nonlin_first"} if name == "PlainConvUNet" else {count, "stem_channels"}
        if unknown := set(keywords) - COMMON - more:
            raise UnknownNetworkError(f"{name} with {', '.join(sorted(unknown))}")
        stages = keywords["n_stages"]
        if not 1 < stages <= MOST_STAGES:
            raise UnknownNetworkError(f"{stages} stages")
        features = _listed(keywords["features_per_stage"], stages)
        return cls(
            residual=name != "PlainConvUNet",
            layer=_layer(keywords),
            features=features,
            kernels=_listed(keywords["kernel_sizes"], stages),
            strides=_listed(keywords["strides"], stages),
            counts=_counts(keywords[count], stages),
            counts_up=_counts(keywords["n_conv_per_stage_decoder"], stages - 1),
            stem=keywords.get("stem_channels") or features[0],
        )

    def weights(self, inputs: int, heads: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield every name and shape."""
        for name, shape in self._encoder(inputs):
            yield f"encoder.{name}", shape
            yield f"decoder.encoder.{name}", shape
        dimensions, layer = self.layer.dimensions, self.layer
        for stage, count in enumerate(self.counts_up):
            below, here = self.features[-stage - 1], self.features[-stage - 2]
            prefix = f"decoder.stages.{stage}.convs."
            for number in range(count):
                yield from layer.weights(
                    f"{prefix}{number}.", here if number else 2 * here, here, self.kernels[-stage - 2]
                )
            yield f"decoder.transpconvs.{stage}.weight", (below, here, *_each(self.strides[-stage - 1], dimensions))
            if layer.bias:
                yield f"decoder.transpconvs.{stage}.bias", (here,)
            yield f"decoder.seg_layers.{stage}.weight", (heads, here, *[1] * dimensions)
            yield f"decoder.seg_layers.{stage}.bias", (heads,)

    def _encoder(self, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.residual:
            yield from self.layer.weights("stem.convs.0.", inputs, self.stem, self.kernels[0])
            inputs = self.stem
        for stage, count in enumerate(self.counts):
            for number in range(count):
                outputs, kernel = self.features[stage], self.kernels[stage]
                if self.residual:
                    prefix = f"stages.{stage}.blocks.{number}."
                    yield from self._block(prefix, inputs, outputs, kernel, 1 if number else self.strides[stage])
                else:
                    yield from self.layer.weights(f"stages.{stage}.0.convs.{number}.", inputs, outputs, kernel)
                inputs = outputs

    def _block(self, prefix: str, inputs: int, outputs: int, kernel: Any, stride: Any) -> Iterator[Any]:
        """Yield a residual block; its way round has a convolution where the number of channels changes."""
        layer = self.layer
        yield from layer.weights(f"{prefix}conv1.", inputs, outputs, kernel)
        yield from layer.weights(f"{prefix}conv2.", outputs, outputs, kernel, bare=True)
        if inputs != outputs:
            pooled = any(step != 1 for step in _each(stride, layer.dimensions))
            around = _Layer(layer.dimensions, False, layer.norm, False, False, False)
            yield from around.weights(f"{prefix}skip.{int(pooled)}.", inputs, outputs, 1, bare=True)


def _layer(keywords: Mapping[str, Any]) -> _Layer:
    """Read what all convolutions have in common."""
    dimensions = {"Conv2d": PLANE, "Conv3d": VOLUME}[keywords["conv_op"].rpartition(".")[2]]
    nonlin = keywords.get("nonlin")
    if nonlin is not None and nonlin.rpartition(".")[2] not in WITHOUT_WEIGHTS:
        raise UnknownNetworkError(f"non-linearity {nonlin}")
    return _Layer(
        dimensions=dimensions,
        bias=bool(keywords.get("conv_bias", False)),
        norm=_norm(keywords.get("norm_op"), keywords.get("norm_op_kwargs") or {}),
        dropout=keywords.get("dropout_op") is not None,
        nonlin=nonlin is not None,
        nonlin_first=bool(keywords.get("nonlin_first", False)),
    )


def _norm(name: str | None, keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what a normalisation keeps, with torch's defaults."""
    if name is None:
        return ()
    kind = name.rpartition(".")[2]
    batch = {"BatchNorm2d": True, "BatchNorm3d": True, "InstanceNorm2d": False, "InstanceNorm3d": False}[kind]
    learned = ("weight", "bias") if keywords.get("affine", batch) else ()
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    return learned + (tracked if keywords.get("track_running_stats", batch) else ())


def _listed(value: Any, length: int) -> list[Any]:
    """Return one value a stage."""
    values = [value] * length if isinstance(value, int) else list(value)
    if len(values) != length:
        raise UnknownNetworkError(f"{len(values)} values for {length} stages")
    return values


def _counts(value: Any, length: int) -> list[int]:
    counts: list[int] = _listed(value, length)
    if not all(0 < count <= MOST_LAYERS for count in counts):
        raise UnknownNetworkError(f"{counts} layers")
    return counts


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    """Return one value a dimension; every one is an integer."""
    values = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(values) != dimensions or not all(isinstance(number, int) for number in values):
        raise UnknownNetworkError(f"{value} in {dimensions} dimensions")
    return values
