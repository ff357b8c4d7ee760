"""Whether the numbers in a checkpoint are numbers, found while its bytes go by."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.inflate import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.tensors import Storage
    from registry.torch_zip import Place

# Element type → integers of its size, the bits without the sign, and the least of those that is no number.
# Comparing integers needs one pass, whatever the type; numpy knows no bfloat16 and is slow with float16.
BITS = {
    "float64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "float32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "float16": ("<u2", 0x7FFF, 0x7C00),
    "bfloat16": ("<u2", 0x7FFF, 0x7F80),
}


@dataclass(frozen=True)
class Weights:
    """What the bytes of a network's weights say."""

    damaged: tuple[str, ...] = ()  # keys of storages with another checksum than the checkpoint's zip says
    broken: frozenset[Storage] = frozenset()  # that hold NaN or infinity
    zero: frozenset[Storage] = frozenset()  # floats that are all zero
    all_zero: bool = False  # whether no float of any storage differs from zero


class Probe:
    """Takes the bytes of one storage in order; every piece but the last must hold whole elements."""

    def __init__(self, storage: Storage, place: Place) -> None:
        self.storage, self.place = storage, place
        self.crc, self.largest = 0, 0
        self._bits = BITS.get(storage.dtype)

    def feed(self, piece: Any) -> None:
        """Take the next bytes."""
        import numpy as np

        self.crc = crc32(piece, self.crc)
        if self._bits is not None and len(piece):
            kind, mask, _ = self._bits
            values = np.frombuffer(piece, kind)
            self.largest = max(self.largest, int(np.bitwise_and(values, values.dtype.type(mask)).max()))

    @property
    def is_float(self) -> bool:
        """Whether the storage holds floats at all."""
        return self._bits is not None and self.storage.length > 0

    @property
    def is_broken(self) -> bool:
        """Whether NaN or infinity was among them."""
        return self._bits is not None and self.largest >= self._bits[2]


def summary(probes: Iterable[Probe]) -> Weights:
    """Return what the probes of a checkpoint have seen, when each has got all of its bytes."""
    probes = list(probes)
    floats = [probe for probe in probes if probe.is_float]
    zero = frozenset(probe.storage for probe in floats if not probe.largest)
    return Weights(
        damaged=tuple(probe.storage.key for probe in probes if probe.crc != probe.place.crc),
        broken=frozenset(probe.storage for probe in floats if probe.is_broken),
        zero=zero,
        all_zero=bool(floats) and len(zero) == len(floats),
    )


def require_apart(probes: Iterable[Probe]) -> list[Probe]:
    """Return the probes in the order of the file; raise `IntegrityError` where storages overlap.

    No program writes such a file: it would be read many times over.
    """
    ordered = sorted(probes, key=lambda probe: probe.place.start)
    for before, after in pairwise(ordered):
        if before.place.start + before.place.size > after.place.start:
            raise IntegrityError(f"storages {before.storage.key} and {after.storage.key} overlap")
    return ordered
