"""Raw cases as nnU-Net's reader gives them, cropped to what is not zero; read once, kept while memory allows."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import SimpleITK
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy import ndimage

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

OUTSIDE = -1  # label of background voxels outside of the nonzero region, as in nnU-Net
VOLUME = 3  # axes
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """An image and its label map, cropped to the box of the voxels that are not zero in some channel.

    The label map says `OUTSIDE` where the image is zero and not enclosed by other values, and no label is.
    """

    images: NDArray[np.float32]  # (C, Z, Y, X)
    labels: NDArray[np.int16]  # (Z, Y, X)
    box: tuple[tuple[int, int], ...]  # first and last index plus one of the crop along Z, Y and X
    shape: tuple[int, ...]  # before the crop
    spacing: tuple[float, ...]  # mm along Z, Y and X
    geometry: dict[str, Any]  # what nnU-Net's reader needs to write a label map of this image

    @property
    def nbytes(self) -> int:
        """Return the memory that the arrays take."""
        return self.images.nbytes + self.labels.nbytes


@dataclass
class RawCases:
    """The training cases of a raw dataset; what was read stays in memory up to `keep` bytes. Safe for threads."""

    dataset: Path
    dataset_json: dict[str, Any]
    keep: int = 0
    _kept: dict[str, RawCase] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.files = training_files(self.dataset, self.dataset_json)
        first = next(iter(self.files.values()))["images"][0]
        self.reader = determine_reader_writer_from_dataset_json(self.dataset_json, first)

    def read(self, case: str) -> RawCase:
        """Return a case; raise `TrainingError` naming the file that cannot be used."""
        with self._lock:
            if case in self._kept:
                return self._kept[case]
        found = self._read(case)
        with self._lock:
            if sum(kept.nbytes for kept in self._kept.values()) + found.nbytes <= self.keep:
                self._kept[case] = found
        return found

    def drop(self, case: str) -> None:
        """Forget a case."""
        with self._lock:
            self._kept.pop(case, None)

    def header(self, case: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return shape and spacing (mm) along Z, Y and X that the first image's header tells; () where it does not."""
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(self.files[case]["images"][0])
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # reading it will say what is wrong
            return (), ()
        return tuple(reader.GetSize()[VOLUME - 1 :: -1]), tuple(reader.GetSpacing()[VOLUME - 1 :: -1])

    def _read(self, case: str) -> RawCase:
        files = self.files[case]
        channels = [self._volume(path) for path in files["images"]]
        images = np.concatenate([voxels for voxels, _ in channels])
        labels = self._volume(files["label"])[0][0]
        if labels.shape != images.shape[1:]:
            raise TrainingError(
                f"{files['label']}: shape {labels.shape[::-1]}, its image has {images.shape[:0:-1]}",
                hint="resample the label map onto the image",
            )
        properties = channels[0][1]
        mask = nonzero(images)
        box = box_of(mask, images.shape[1:])
        inside = tuple(slice(*edges) for edges in box)
        images = np.ascontiguousarray(images[(slice(None), *inside)])
        cropped = labels[inside].astype(np.int16)
        if mask is not None:
            cropped[(cropped == 0) & ~filled(mask[inside])] = OUTSIDE
        return RawCase(
            images=images,
            labels=cropped,
            box=box,
            shape=labels.shape,
            spacing=tuple(float(size) for size in properties["spacing"]),
            geometry=properties,
        )

    def _volume(self, path: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return a file's voxels (C, Z, Y, X), and nnU-Net's properties of it."""
        try:
            found = _read_nifti(path) if self.reader is SimpleITKIO else None
            voxels, properties = found or self.reader().read_images((path,))
        except UNREADABLE as error:
            raise TrainingError(
                f"{path}: cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                hint="copy it again; mreg data verify tells of all files at once",
            ) from error
        if not np.isfinite(voxels).all():
            raise TrainingError(f"{path}: NaN or infinite voxels", hint="replace them, for example by 0")
        return voxels, properties


def training_files(dataset: Path, dataset_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the `images` (one a channel) and the `label` of each training case.

    As nnU-Net finds them, which forks five processes for it; a signal at the wrong moment makes these hang.
    """
    ending, channels = dataset_json["file_ending"], len(dataset_json["channel_names"])
    cases = sorted(
        path.name.removesuffix(ending)
        for path in (dataset / "labelsTr").iterdir()
        if path.name.endswith(ending) and not path.name.startswith(".")
    )
    return {
        case: {
            "images": [str(dataset / "imagesTr" / f"{case}_{channel:04d}{ending}") for channel in range(channels)],
            "label": str(dataset / "labelsTr" / f"{case}{ending}"),
        }
        for case in cases
    }


def _read_nifti(path: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Read a 3D NIfTI file with SimpleITK's geometry, its voxels unpacked several times as fast; None for others."""
    if not path.endswith((".nii.gz", ".nii")):
        return None
    header = SimpleITK.ImageFileReader()
    header.SetFileName(path)
    header.ReadImageInformation()
    if header.GetDimension() != VOLUME or header.GetNumberOfComponents() != 1:
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - nnU-Net names files by strings
        data = file.read()
    if path.endswith(".gz"):
        data = igzip.decompress(data)  # type: ignore[no-untyped-call]
    image = nib.Nifti1Image.from_bytes(data)
    if image.shape != header.GetSize() or image.get_data_dtype().kind not in "iuf":
        return None
    voxels = np.asanyarray(image.dataobj).T[None].astype(np.float32)
    spacing = [abs(size) for size in header.GetSpacing()]
    geometry = {"spacing": header.GetSpacing(), "origin": header.GetOrigin(), "direction": header.GetDirection()}
    return voxels, {"sitk_stuff": geometry, "spacing": spacing[::-1]}


def nonzero(images: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Return where some channel is not zero, None for everywhere."""
    mask = images[0] != 0
    for channel in images[1:]:
        mask |= channel != 0
    return None if mask.all() or not mask.any() else mask


def box_of(mask: NDArray[np.bool_] | None, shape: tuple[int, ...] = ()) -> tuple[tuple[int, int], ...]:
    """Return first and last index plus one of the mask along each axis."""
    if mask is None:
        return tuple((0, size) for size in shape)
    found = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        found.append((int(along[0]), int(along[-1]) + 1))
    return tuple(found)


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of a mask: background that no face-connected path leads to the border.

    Holes lie inside of the mask's box, so a mask that was cropped to its box has the same ones.
    """
    background, _ = ndimage.label(~mask)
    border = {
        int(label) for axis in range(mask.ndim) for end in (0, -1) for label in np.unique(background.take(end, axis))
    }
    return ~np.isin(background, sorted(border - {0}))
