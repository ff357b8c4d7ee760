"""Primus, a Transformer for volumes (Wald et al. 2025, arXiv 2503.01835), in torch alone.

Tokens of 8 x 8 x 8 voxels, EVA-02 blocks (rotary embeddings, SwiGLU, LayerScale, a norm inside of the attention) and
a decoder of transposed convolutions. State-dict keys are those of published weights. Which tokens are seen is an
argument of `encode`, the same in training and in evaluation.

Images are (B, C, Z, Y, X), tokens (B, N, width) with N = Z * Y * X / token ** 3 in the order (Z, Y, X).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.nets.positions import AXES, rotary_table, rotate

ENCODER_KEY, STEM_KEY, TABLE_KEY = "eva", "down_projection", "eva.pos_embed"
INPUT_KEYS = ("down_projection.proj",)
SPREAD = 0.02  # standard deviation of new weights
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class PrimusConfig:
    """Size of a Primus. The defaults are Primus-M for patches of 160 voxels, 151,786,529 parameters with one output."""

    width: int = 864
    depth: int = 16
    heads: int = 12
    token: int = 8  # voxels along an axis; a power of 2
    patch: tuple[int, int, int] = (160, 160, 160)
    channels_in: int = 1
    channels_out: int = 1
    drop_path: float = 0.2  # of the last block; linear over the blocks
    layer_scale: float = 0.1  # start value
    published_order: bool = False  # tokens in the order (Y, Z, X), as published weights of nnssl number them

    def __post_init__(self) -> None:
        if self.token < 2 or self.token & (self.token - 1):  # noqa: PLR2004
            raise ValueError(f"token {self.token} is not a power of 2 above 1")
        if any(size % self.token for size in self.patch):
            raise ValueError(f"patch {self.patch} is not divisible by the token size {self.token}")
        if self.width % self.heads or (self.width // self.heads) % (2 * AXES):
            raise ValueError(f"width {self.width} over {self.heads} heads is not divisible by {2 * AXES}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return the number of tokens along Z, Y and X."""
        z, y, x = (size // self.token for size in self.patch)
        return z, y, x

    @property
    def tokens(self) -> int:
        """Return the number of tokens of a patch."""
        return math.prod(self.grid)

    @property
    def order(self) -> tuple[int, int, int]:
        """Return the axes of the grid in the order in which tokens are numbered."""
        return (1, 0, 2) if self.published_order else (0, 1, 2)

    def with_outputs(self, channels: int) -> PrimusConfig:
        """Return the same size with another number of outputs."""
        return replace(self, channels_out=channels)


SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 396, "depth": 12, "heads": 6},
    "B": {"width": 792, "depth": 12, "heads": 12},
    "M": {"width": 864, "depth": 16, "heads": 12},
    "L": {"width": 1056, "depth": 24, "heads": 16},
}


class Attention(nn.Module):
    """Self-attention of tokens (B, N, width) with turned queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        """Return tokens (B, N, width)."""
        q, k, v = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotate(part, *rotation).to(v.dtype) for part in (q, k))
        found = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(self.norm(found.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """Gated perceptron of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(width * 4 * 2 / 3)
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, width)."""
        return self.fc2(self.norm(functional.silu(self.fc1_g(tokens)) * self.fc1_x(tokens)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and perceptron, both scaled by a learned factor a feature and at times left out for a sample."""

    def __init__(self, width: int, heads: int, drop: float, scale: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.gamma_1 = nn.Parameter(torch.full((width,), scale))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = SwiGLU(width)
        self.gamma_2 = nn.Parameter(torch.full((width,), scale))

    def forward(self, tokens: Tensor, rotation: Rotation) -> Tensor:
        """Return tokens (B, N, width)."""
        tokens = tokens + self._dropped(self.gamma_1 * self.attn(self.norm1(tokens), rotation))
        return tokens + self._dropped(self.gamma_2 * self.mlp(self.norm2(tokens)))

    def _dropped(self, change: Tensor) -> Tensor:
        if not self.training or not self.drop:
            return change
        kept = change.new_empty((len(change), 1, 1)).bernoulli_(1 - self.drop)
        return change * kept / (1 - self.drop)


class Eva(nn.Module):
    """Blocks over the tokens of a grid: adds their places, and takes those in `keep` alone where it is given."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: PrimusConfig, depth: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        drops = [config.drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(config.width, config.heads, d, config.layer_scale) for d in drops)
        self.norm = nn.LayerNorm(config.width)
        grid = [config.grid[axis] for axis in config.order]
        for name, table in zip(("cosines", "sines"), rotary_table(grid, config.width // config.heads), strict=True):
            self.register_buffer(name, table, persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=SPREAD)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=SPREAD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for number, block in enumerate(self.blocks, start=1):
            if isinstance(block, Block):
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.data.div_(math.sqrt(2 * number))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return tokens (B, K, width) of tokens (B, N, width); `keep` (B, K) numbers those that are seen."""
        tokens = tokens + self.pos_embed
        rotation = (self.cosines, self.sines)
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
            rotation = (self.cosines[keep][:, None], self.sines[keep][:, None])
        for block in self.blocks:
            tokens = block(tokens, rotation)
        return self.norm(tokens)  # type: ignore[no-any-return]


class Stem(nn.Module):
    """One convolution that makes a token of each cube of voxels."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.channels_in, config.width, config.token, config.token)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width, Z, Y, X) of tokens."""
        return self.proj(image)  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """Normalises the channels of each voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, C, Z, Y, X)."""
        channels_last = volume.movedim(1, -1)
        return functional.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class TokenDecoder(nn.Module):
    """Transposed convolutions from tokens to voxels; each doubles the resolution."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        stages = [
            nn.Sequential(nn.ConvTranspose3d(before, after, 2, 2), ChannelNorm(after), nn.GELU())
            for before, after in pairwise(decoder_channels(config)[:-1])
        ]
        before, after = decoder_channels(config)[-2:]
        self.decode = nn.Sequential(*stages, nn.ConvTranspose3d(before, after, 2, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, outputs, Z, Y, X) of voxels."""
        return self.decode(tokens)  # type: ignore[no-any-return]


def decoder_channels(config: PrimusConfig) -> list[int]:
    """Return the channels before, between and after the decoder's stages: a falling geometric row.

    >>> decoder_channels(PrimusConfig(channels_out=2))
    [864, 144, 24, 2]
    """
    stages = int(math.log2(config.token))
    ratio = (config.width / (2 * config.channels_out)) ** (1 / stages)
    between = [max(8, round(config.width / ratio**i / 8) * 8) for i in range(1, stages)]
    return [config.width, *between, config.channels_out]


class Primus(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        self.config = config
        self.down_projection = Stem(config)
        self.up_projection = TokenDecoder(config)
        self.eva = Eva(config, config.depth)
        he_start(self.down_projection)
        he_start(self.up_projection)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs, Z, Y, X) of an image of the configured patch."""
        return self.decode(self.eva(self.embed(image)))

    def embed(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, width) of an image."""
        return self.to_row(self.down_projection(image))

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the voxels of tokens (B, N, width)."""
        return self.up_projection(self.to_grid(tokens))  # type: ignore[no-any-return]

    def to_row(self, volume: Tensor) -> Tensor:
        """Number what lies on the grid: (B, C, Z, Y, X) to (B, N, C)."""
        return volume.permute(0, *(axis + 2 for axis in self.config.order), 1).flatten(1, 3)

    def to_grid(self, row: Tensor) -> Tensor:
        """Lay what is numbered out on the grid: (B, N, C) to (B, C, Z, Y, X)."""
        grid = [self.config.grid[axis] for axis in self.config.order]
        back = [self.config.order.index(axis) + 1 for axis in range(AXES)]
        return row.reshape(len(row), *grid, -1).permute(0, 4, *back)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights; the empty `mask_token` that published weights of the plain network carry is left out."""
        own = {key: value for key, value in state_dict.items() if key != "mask_token" or hasattr(self, "mask_token")}
        return super().load_state_dict(own, strict, assign)


class PrimusEncoder(Primus):
    """The encoder alone: images to tokens (B, N, width)."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__(config)
        del self.up_projection

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens of an image."""
        return self.eva(self.embed(image))  # type: ignore[no-any-return]


def he_start(module: nn.Module) -> None:
    """Draw the weights of convolutions after He, for a leaky ReLU of slope 0.01."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, a=1e-2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
