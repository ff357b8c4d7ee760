"""A trained model run on the images of a case.

An image is turned to the orientation that the network was trained in, prepared as nnU-Net prepares what its SimpleITK
reader gives, segmented, and the label map is turned back into the image's own grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.environment import free_memory, is_out_of_memory
from trainers.core.errors import TrainingError
from trainers.data import resample
from trainers.data.nifti import open_image, read_voxels, spacing_mm
from trainers.data.orientation import Reorientation
from trainers.segmentation.label_maps import segment
from trainers.segmentation.preprocess import preprocess_image
from trainers.segmentation.sliding_window import SlidingWindow, inference_type

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from trainers.segmentation.network import Model

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A loaded model and how it is run; `precision` as in `inference_type`."""

    model: Model
    device: torch.device
    mirror: bool = False
    precision: str = "auto"

    def predict(self, images: tuple[Path, ...], folds: tuple[str, ...], orientation: str) -> NDArray[np.integer[Any]]:
        """Return the label map (x, y, z) of a case, an image a channel, in the grid of its images.

        `folds` are averaged. Raises `TrainingError` naming an image that cannot be used or is too large.
        """
        model, like = self.model, open_image(images[0])
        way, window = Reorientation.to(orientation, like.affine), self.window(folds)
        needed, free = self.nbytes(images, window, way), free_memory()
        if free is not None and needed > free:  # the system would kill this process without a word
            raise TrainingError(
                f"{images[0]}: shape {like.shape} needs about {needed / GB:.1f} GB of memory, {free / GB:.1f} are free",
                hint="close other programs, take another machine, or crop the image around what is to be segmented",
            )
        about = (model.plans, model.configuration, model.dataset_json)
        spacing = way.spacing(spacing_mm(like))[::-1]
        try:
            volume, properties = preprocess_image(_read(images, way), spacing, *about)
            labels = segment(window, volume, properties, *about)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"{images[0]}: not enough memory on {self.device} for shape {like.shape}",
                hint="--device cpu, or crop the image around what is to be segmented",
            ) from error
        return np.ascontiguousarray(way.undo(labels.transpose()))

    def window(self, folds: tuple[str, ...]) -> SlidingWindow:
        """Return how the networks of some folds go over a volume."""
        return SlidingWindow(
            network=self.model.network,
            tile=tuple(self.model.configuration.patch_size),
            device=self.device,
            weights=tuple(self.model.weights[fold] for fold in folds),
            mirror_axes=(self.model.mirror_axes or ()) if self.mirror else (),
            precision=inference_type(self.precision, self.device),
        )

    def nbytes(self, images: tuple[Path, ...], window: SlidingWindow, way: Reorientation) -> int:
        """Return about the most memory that a case takes, whatever the network itself is."""
        files = [open_image(path) for path in images]
        target = list(self.model.configuration.spacing)
        order = [len(way.axes) - 1 - axis for axis in self.model.plans.transpose_forward]  # Z, Y, X of x, y, z
        size = [round(way.spacing((*files[0].shape, 1)[:3])[axis]) for axis in order]
        spacing = [way.spacing(spacing_mm(files[0]))[axis] for axis in order]
        grid = resample.new_shape(size, spacing, spacing[: len(size) - len(target)] + target)
        voxels, values = math.prod(size), math.prod(grid)
        reading = voxels * (4 * len(files) + max(file.get_data_dtype().itemsize for file in files))
        preparing = 4 * (voxels * (len(files) + 1) + values * (len(files) + 2))
        heads: int = self.model.plans.get_label_manager(self.model.dataset_json).num_segmentation_heads
        running = 4 * values * len(files) + 2 * voxels + window.nbytes(grid, heads)
        most: int = max(reading, preparing, running)
        return most


def _read(paths: tuple[Path, ...], way: Reorientation) -> NDArray[np.float32]:
    """Return the voxels of some images (C, Z, Y, X) in the network's orientation."""
    volume: NDArray[np.float32] | None = None
    for channel, path in enumerate(paths):
        voxels = way.apply(read_voxels(path, open_image(path))).transpose()
        if volume is None:
            volume = np.empty((len(paths), *voxels.shape), dtype=np.float32)
        volume[channel] = voxels
    assert volume is not None  # noqa: S101 - there is a channel
    return volume
