"""nnU-Net's checkpoints, read without executing anything."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

FINAL = "checkpoint_final.pth"
Weights = dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything; nnU-Net's own hold NumPy numbers beside the tensors."""
    if not path.is_file():
        raise TrainingError(f"{path}: no such file", hint="only finished folds can be used: train to the end")
    try:
        with _numpy_numbers():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each way a file can be broken
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{path}: damaged, or holds more than weights and numbers: {reason}",
            hint="fetch or train it again; such a file is never opened in another way",
        ) from error
    wanted = {"network_weights": dict, "init_args": dict, "trainer_name": str}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), t) for k, t in wanted.items()):
        raise TrainingError(f"{path}: not a checkpoint of nnU-Net: it lacks one of {', '.join(wanted)}")
    if not isinstance(checkpoint["init_args"].get("configuration"), str):
        raise TrainingError(f"{path}: not a checkpoint of nnU-Net: its init_args name no configuration")
    return checkpoint


def _numpy_numbers() -> AbstractContextManager[Any]:
    """Let `weights_only` loading make NumPy's scalars, which are data and cannot run anything."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    if safe_globals is None:
        return nullcontext()
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return safe_globals(  # type: ignore[no-any-return]
        [(scalar, "numpy._core.multiarray.scalar"), (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
    )


def rounded_to_half(weights: Weights, path: Path) -> Weights:
    """Return the weights after a round through 16-bit numbers; tensors that are shared stay shared."""
    rounded: dict[tuple[Any, ...], torch.Tensor] = {}
    result = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            result[name] = tensor
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in rounded:
            rounded[key] = tensor.half().to(tensor.dtype)
            if not torch.isfinite(rounded[key]).all():
                raise TrainingError(f"{path}: {name} is too large for 16 bits", hint="release it in full precision")
        result[name] = rounded[key]
    return result
