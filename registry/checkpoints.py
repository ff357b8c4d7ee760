"""Checkpoints of torch, read, judged and slimmed without torch and without executing what they hold.

A checkpoint is a zip: `data.pkl` describes the objects, `data/0`, `data/1`, … hold the storages that tensors are views
of. One storage may serve many tensors (a U-Net's encoder appears again inside its decoder), so everything here counts,
copies and converts storages, never tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from registry.errors import IntegrityError, MregError
from registry.files import atomic_write
from registry.pickles import DEEPEST, MOST_VALUES, Call, Global, Persistent, dump, parse
from registry.stored_zip import StoredZip
from registry.tensors import (
    CLASSES,
    ORDERED_DICT,
    PARAMETER,
    REBUILD,
    SIZES,
    STORAGES,
    Storage,
    Tensor,
    chunks,
    mapping,
    plain,
    shown,
    tensor_of,
)  # fmt: skip
from registry.torch_zip import TorchZip, open_checkpoint
from registry.weights import Probe, Weights, require_apart, summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What `torch.load(weights_only=True)` accepts in every torch from 2.2 on.
INERT = {
    "collections.OrderedDict", "torch.Size", "torch.nn.parameter.Parameter", str(PARAMETER),
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    *(f"torch.{name}" for name in STORAGES), *(f"torch.{dtype}" for dtype in STORAGES.values()),
} - {"torch.bfloat16", "torch.uint8", "torch.bool"}  # fmt: skip
WEIGHTS, AXES, TRAINER = "network_weights", "inference_allowed_mirroring_axes", "trainer_name"
# What a pre-trained encoder has beside its weights: how another training takes it up, what to cite, how it was made.
PLAN, CITATIONS, MADE = "nnssl_adaptation_plan", "citations", "mreg"
# What nnU-Net reads when it continues a training.
PROGRESS = ("optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says about itself."""

    keys: tuple[str, ...]
    trainer_name: str
    configuration: str
    mirroring_axes: tuple[int, ...] | None
    tensors: tuple[Tensor, ...]  # of network_weights, in order
    unsafe: tuple[str, ...]  # as `scan` lists them
    size: int  # bytes of the file

    @property
    def inert(self) -> bool:
        """Whether `torch.load(weights_only=True)` loads it, from torch 2.2 on."""
        return not self.unsafe

    @property
    def storages(self) -> tuple[Storage, ...]:
        """Return the storages of the weights, each once."""
        return tuple(dict.fromkeys(tensor.storage for tensor in self.tensors))

    @property
    def parameters(self) -> int:
        """Return the number of weights (buffers included), those with several names counted once."""
        views: dict[Storage, set[tuple[int, int]]] = {}
        for tensor in self.tensors:
            views.setdefault(tensor.storage, set()).add((tensor.offset, tensor.length))
        return sum(min(storage.length, sum(n for _, n in pieces)) for storage, pieces in views.items())

    @property
    def dtype(self) -> str:
        """Return the element type of most weights."""
        counts: dict[str, int] = {}
        for storage in self.storages:
            counts[storage.dtype] = counts.get(storage.dtype, 0) + storage.length
        return max(counts, key=lambda dtype: counts[dtype], default="")


@dataclass(frozen=True)
class Contents:
    """A parsed checkpoint; it can be asked when the file is closed."""

    archive: TorchZip
    document: Any  # what the pickle describes, its calls as notes that nobody follows
    unsafe: tuple[str, ...]

    def describe(self) -> Checkpoint:
        """Return what nnU-Net reads; raise `IntegrityError` for another program's checkpoint."""
        return _describe(self.archive, self.document, self.unsafe)


def read_contents(source: Path | IO[bytes]) -> Contents:
    """Parse a checkpoint, whoever wrote it: only its directory and its pickle are read.

    Raises `IntegrityError` for what is no checkpoint.
    """
    with open_checkpoint(source) as archive:
        document, names = parse(archive.pickle)
        return Contents(archive, document, tuple(str(name) for name in names if str(name) not in INERT))


def scan(source: Path | IO[bytes]) -> list[str]:
    """Return what keeps a checkpoint from being inert: every global that `weights_only=True` refuses, by name.

    numpy's scalars are among them: harmless, but an older numpy cannot load a newer one's. Nothing is executed.
    Raises `IntegrityError` for what is no checkpoint.
    """
    return list(read_contents(source).unsafe)


def read_metadata(source: Path | IO[bytes]) -> Checkpoint:
    """Describe a checkpoint of nnU-Net or nnssl; raise `IntegrityError` where it is damaged or another program's."""
    with open_checkpoint(source) as archive:
        document, names = parse(archive.pickle)
        return _describe(archive, document, tuple(str(name) for name in names if str(name) not in INERT))


def _describe(archive: TorchZip, document: Any, unsafe: tuple[str, ...]) -> Checkpoint:
    parts = mapping(document, "the checkpoint")
    for key in (WEIGHTS, *([] if PLAN in parts else ["init_args"]), TRAINER):
        if key not in parts:
            raise IntegrityError(f"no {key}: not a checkpoint of nnU-Net")
    axes = parts.get(AXES)
    if isinstance(axes, list | tuple):
        axes = tuple(plain(axis) for axis in axes)
    if axes is not None and not (isinstance(axes, tuple) and all(type(axis) is int for axis in axes)):
        raise IntegrityError(f"{AXES} is {shown(axes)}, expected numbers of axes")
    return Checkpoint(
        keys=tuple(str(key) for key in parts),
        trainer_name=_text(parts[TRAINER], TRAINER),
        configuration=_configuration(parts),
        mirroring_axes=axes,
        tensors=tuple(tensor_of(archive, *item) for item in mapping(parts[WEIGHTS], WEIGHTS).items()),
        unsafe=unsafe,
        size=archive.size,
    )


def _configuration(parts: dict[Any, Any]) -> str:
    """Return the configuration that the network was trained with; an encoder's plan has one only."""
    if PLAN not in parts:
        return _text(mapping(parts["init_args"], "init_args").get("configuration"), "configuration")
    node: Any = parts
    for key in (PLAN, "pretrain_plan", "configurations"):
        node = mapping(node, "the adaptation plan").get(key)
    names = list(mapping(node, "configurations"))
    return _text(names[0] if len(names) == 1 else None, "the only configuration of the adaptation plan")


def probes(source: Path | IO[bytes]) -> list[Probe]:
    """Return a probe for each storage of the weights, in the order of the file; only headers are read."""
    with open_checkpoint(source) as archive:
        storages = _describe(archive, parse(archive.pickle)[0], ()).storages
        return require_apart(Probe(storage, archive.place(storage.key)) for storage in storages)


def read_weights(source: Path | IO[bytes]) -> Weights:
    """Read all weights, once, and return what their bytes say; raise `IntegrityError` for a damaged checkpoint."""
    with open_checkpoint(source) as archive:
        storages = _describe(archive, parse(archive.pickle)[0], ()).storages
        made = require_apart(Probe(storage, archive.place(storage.key)) for storage in storages)
        for probe in made:
            for piece in archive.pieces(probe.place):
                probe.feed(piece)
    return summary(made)


def bad_weights(checkpoint: Checkpoint, weights: Weights) -> list[str]:
    """Return the names of weights that hold NaN or infinity, and say so where all weights are zero."""
    names = [tensor.name for tensor in checkpoint.tensors if tensor.storage in weights.broken]
    return [*names, "every weight is zero"] if weights.all_zero else names


def slim(source: Path, target: Path, *, half: bool = False, keep_optimizer: bool = False) -> Checkpoint:
    """Write the checkpoint that a release needs, and return it.

    That is: weights, trainer, configuration and mirroring axes; of an encoder also its adaptation plan and citations.

    The file loads with `torch.load(weights_only=True)` and with `mmap=True` from torch 2.2 on; its bytes depend on the
    values only. `half` converts the weights to 16-bit floats, each storage once. `keep_optimizer` keeps what
    continuing the training needs. Memory stays bounded, whatever the size.
    """
    with open_checkpoint(source) as archive:
        document, _ = parse(archive.pickle)
        before = _describe(archive, document, ())
        writer = _Slim(archive, {storage.key for storage in before.storages} if half else set())
        parts = mapping(document, "the checkpoint")
        kept: dict[str, Any] = {WEIGHTS: writer.weights(parts[WEIGHTS], before.tensors)}
        for key in PROGRESS if keep_optimizer else ():
            if key in parts:
                kept[key] = writer.plain(parts[key], key)
        kept["init_args"] = {"configuration": before.configuration}
        kept[TRAINER] = before.trainer_name
        if AXES in parts:
            kept[AXES] = before.mirroring_axes
        for key in (PLAN, CITATIONS, MADE) if PLAN in parts else ():
            if key in parts:
                kept[key] = writer.plain(parts[key], key)
        with atomic_write(target) as file:
            writer.write(file, dump(kept))
    return read_metadata(target)


class _Slim:
    """Numbers the storages in the order of their use, and copies them."""

    def __init__(self, archive: TorchZip, halved: set[str]) -> None:
        self.archive = archive
        self.halved = halved
        self.used: dict[Storage, str] = {}
        self.count = 0

    def weights(self, node: Any, tensors: tuple[Tensor, ...]) -> Call:
        """Return the state dict with its modules' versions, which some layers look at when they load."""
        state = node.state if isinstance(node, Call) else None
        metadata = mapping(state, "state").get("_metadata") if state is not None else None
        weights = Call(ORDERED_DICT, items=[(tensor.name, self.tensor(tensor)) for tensor in tensors])
        if metadata is not None:
            versions = self.plain(metadata, "_metadata")
            weights.state = {"_metadata": Call(ORDERED_DICT, items=list(versions.items()))}
        return weights

    def tensor(self, tensor: Tensor) -> Call:
        """Return the call that makes the tensor from its copied storage."""
        storage = tensor.storage
        number = self.used.setdefault(storage, str(len(self.used)))
        dtype = self._dtype(storage)
        pid = ("storage", Global("torch", CLASSES[dtype]), number, "cpu", storage.length)
        arguments = (Persistent(pid), tensor.offset, tensor.shape, tensor.stride, False, Call(ORDERED_DICT))
        return Call(REBUILD, arguments)

    def plain(self, node: Any, where: str, depth: int = 0) -> Any:
        """Return a value with tensors as calls and everything else as plain values."""
        self.count += 1
        if depth > DEEPEST or self.count > MOST_VALUES:
            raise IntegrityError(f"{where} is nested without end")
        if isinstance(node, Call) and str(node.function).startswith("torch._utils._rebuild_"):
            return self.tensor(tensor_of(self.archive, where, node))
        if isinstance(node, dict) or (isinstance(node, Call) and node.function == ORDERED_DICT):
            items = mapping(node, where).items()
            return {plain(key): self.plain(item, f"{where}.{key}", depth + 1) for key, item in items}
        if isinstance(node, list | tuple):
            return type(node)(self.plain(item, where, depth + 1) for item in node)
        return plain(node)

    def write(self, file: IO[bytes], pickle: bytes) -> None:
        """Write the zip."""
        with StoredZip(file, alignment=64) as archive:
            archive.write("archive/data.pkl", pickle)
            archive.write("archive/byteorder", b"little")
            for storage, number in self.used.items():
                size = storage.length * SIZES[self._dtype(storage)]
                with archive.open(f"archive/data/{number}", size) as member:
                    for piece in self._bytes(storage):
                        member.write(piece)
            archive.write("archive/version", b"3\n")

    def _dtype(self, storage: Storage) -> str:
        return "float16" if storage.key in self.halved and storage.dtype in ("float32", "float64") else storage.dtype

    def _bytes(self, storage: Storage) -> Iterator[bytes | memoryview]:
        if self._dtype(storage) == storage.dtype:
            yield from self.archive.storage(storage.key, storage.size)
            return
        import numpy as np

        for values in chunks(self.archive, storage):
            with np.errstate(over="ignore"):
                short = values.astype("<f2")
            if np.isinf(short).any() and not np.isinf(values).any():
                raise MregError(
                    f"a weight of {np.abs(values).max():g} does not fit 16-bit floats", hint="package without --half"
                )
            yield short.data


def _text(node: Any, what: str) -> str:
    if not isinstance(node, str) or not node:
        raise IntegrityError(f"{what} is {shown(node)}, expected a name")
    return node
