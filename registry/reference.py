"""What a model gave for one image, in a form small enough for the manifest, and how like it another output is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from importlib import metadata
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.files import json_text
from registry.manifest import LARGEST_MAP, LabelMap, Reference, ReferenceImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from registry.volumes import Volume

PACKAGES = ("torch", "nnunetv2", "numpy", "scipy")
CLASSIFIER_PACKAGES = ("torch", "numpy", "scipy")
Probabilities = dict[str, dict[str, float]]  # label → class → probability
DIGIT_BITS = 7  # a run's length is written in base 128; the eighth bit says that more digits follow
MORE = 1 << DIGIT_BITS
MOST_DIGITS = 9  # of a run that a 63-bit number can count
LARGEST_VALUE = 255
BROKEN = "the manifest's reference is broken"


def image_of(volume: Volume, kind: str) -> ReferenceImage:
    """Describe an image without keeping a voxel of it."""
    digest = hashlib.sha256()
    for array, dtype in ((volume.array.shape, "<i8"), (volume.affine, "<f4"), (volume.array, "<f4")):
        digest.update(_bytes(array, dtype))
    return ReferenceImage(kind=kind, shape=volume.array.shape, sha256=digest.hexdigest())


def describe(labels: NDArray[Any], image: ReferenceImage) -> Reference:
    """Return the reference that a label map (x, y, z) makes."""
    return Reference(
        image=image,
        sha256=digest_of(labels),
        voxels=count(labels),
        map=encode(labels),
        probabilities=None,
        versions={name: metadata.version(name) for name in PACKAGES},
    )


def describe_answer(probabilities: Probabilities, image: ReferenceImage) -> Reference:
    """Return the reference that a classifier's answer makes."""
    return Reference(
        image=image,
        sha256=digest_of_answer(probabilities),
        voxels={},
        map=None,
        probabilities=probabilities,
        versions={name: metadata.version(name) for name in CLASSIFIER_PACKAGES},
    )


def digest_of_answer(probabilities: Probabilities) -> str:
    """Return the SHA-256 of a classifier's answer."""
    return hashlib.sha256(json_text(probabilities).encode()).hexdigest()


def difference(probabilities: Probabilities, reference: Reference) -> float:
    """Return by how much a classifier's answer differs from the reference, at most; 1 where its classes differ."""
    theirs = reference.probabilities or {}
    if {label: set(classes) for label, classes in probabilities.items()} != {k: set(v) for k, v in theirs.items()}:
        return 1.0
    return max(abs(p - theirs[label][name]) for label, classes in probabilities.items() for name, p in classes.items())


def digest_of(labels: NDArray[Any]) -> str:
    """Return the SHA-256 of a label map's shape and voxels, whatever its type."""
    return hashlib.sha256(_bytes(labels.shape, "<i8") + _bytes(labels, "<u4")).hexdigest()


def count(labels: NDArray[Any]) -> dict[str, int]:
    """Return the number of voxels of each value but 0."""
    import numpy as np

    values, counts = np.unique(labels[labels != 0], return_counts=True)
    return {str(value): int(number) for value, number in zip(values, counts, strict=True)}


def encode(labels: NDArray[Any]) -> LabelMap | None:
    """Return the labelled box of a map as runs; None where it would take more than `LARGEST_MAP` characters.

    Runs and not zlib: the bytes of zlib depend on its build, and a manifest's must not.
    """
    import numpy as np

    places = np.argwhere(labels)
    if not len(places):
        return LabelMap(start=(0, 0, 0), shape=(0, 0, 0), runs="")
    low, high = places.min(axis=0), places.max(axis=0) + 1
    flat = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    if flat.max() > LARGEST_VALUE or len(starts) > LARGEST_MAP:
        return None
    lengths = np.diff(starts, append=len(flat))
    data = b"".join(
        bytes([value]) + _digits(length) for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True)
    )
    text = base64.b64encode(data).decode()
    box = {"start": tuple(low.tolist()), "shape": tuple((high - low).tolist())}
    return LabelMap(**box, runs=text) if len(text) <= LARGEST_MAP else None


def decode(packed: LabelMap, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the label map of this shape that was encoded; raise `IntegrityError` for runs that do not fill the box."""
    import numpy as np

    size = math.prod(packed.shape)
    if any(a + b > whole for a, b, whole in zip(packed.start, packed.shape, shape, strict=True)):
        raise IntegrityError(f"{BROKEN}: a box of {packed.shape} at {packed.start} is not inside {tuple(shape)}")
    try:
        data = base64.b64decode(packed.runs, validate=True)
    except binascii.Error as error:
        raise IntegrityError(f"{BROKEN}: {error}") from error
    values, lengths = _runs(data, size)
    labels = np.zeros(shape, np.uint8)
    box = tuple(slice(a, a + b) for a, b in zip(packed.start, packed.shape, strict=True))
    labels[box] = np.repeat(np.array(values, np.uint8), lengths).reshape(packed.shape)
    return labels


def _runs(data: bytes, size: int) -> tuple[list[int], list[int]]:
    """Return values and lengths of the runs, which together are `size` voxels long."""
    values, lengths, position, total = [], [], 0, 0
    while position < len(data):
        values.append(data[position])
        length, digits = 0, 0
        position += 1
        while position < len(data) and digits < MOST_DIGITS:
            digit = data[position]
            length |= (digit & (MORE - 1)) << (digits * DIGIT_BITS)
            position, digits = position + 1, digits + 1
            if not digit & MORE:
                break
        lengths.append(length)
        total += length
        if total > size:
            break
    if total != size:
        raise IntegrityError(f"{BROKEN}: its runs do not make {size} voxels")
    return values, lengths


def agreement(labels: NDArray[Any], reference: Reference) -> float:
    """Return which part of the voxels that either labels has the same label in both, between 0 and 1.

    Where the reference holds no map, the numbers of voxels are compared instead, which is never less.
    """
    import numpy as np

    if reference.map is None:
        ours, theirs = count(labels), reference.voxels
        same = sum(min(number, theirs.get(value, 0)) for value, number in ours.items())
        either = max(sum(ours.values()), sum(theirs.values()))
        return same / either if either else 1.0
    other = decode(reference.map, labels.shape)
    either = int(np.count_nonzero((labels != 0) | (other != 0)))
    return int(np.count_nonzero((labels == other) & (labels != 0))) / either if either else 1.0


def _digits(length: int) -> bytes:
    digits = bytearray()
    while length >= MORE:
        digits.append(length & (MORE - 1) | MORE)
        length >>= DIGIT_BITS
    return bytes([*digits, length])


def _bytes(array: Any, dtype: str) -> bytes:
    import numpy as np

    return np.ascontiguousarray(array, dtype=dtype).tobytes()
