"""From the images of a collection to what methods read, in the layout that nnssl reads too.

    CACHE/DatasetNNN_Name/dataset_fingerprint.json nnsslPlans.json splits_final.json
                          pretrain_data__CONFIG.json valid_imgs__CONFIG.json excluded__CONFIG.json
    CACHE/DatasetNNN_Name/nnsslPlans_CONFIG/DatasetNNN_Name/DATASET/SUBJECT/SESSION/
        IMAGE.b2nd         image (1, Z, Y, X), float32: cropped to what is not zero, z-scored, resampled
        IMAGE__anon.b2nd   anonymisation mask on its grid, int8; -1 lies outside of what is not zero
        IMAGE__anat.b2nd   anatomy mask
        IMAGE.pkl          the way back; the image is whole when it is there

An image that cannot be used is told and left out, and so are its name and the reason in excluded__CONFIG.json.
"""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from trainers.core.errors import TrainingError
from trainers.data import resample, store
from trainers.data.nifti import open_image, read_voxels, same_grid
from trainers.data.orientation import Reorientation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.pretraining.collection import Item

OUTSIDE = -1
SMALLEST_STD = 1e-8
PATCH = 160  # what nnssl lays blocks out for
BLOCK_BYTES, CHUNK_BYTES = 0.8 * 32768, 0.8 * 1441792  # four fifths of a usual core's L1 and of its part of L3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def preprocess(
    item: Item, plans: dict[str, Any], configuration: dict[str, Any]
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.int8]], dict[str, Any]]:
    """Return image (1, Z, Y, X), its masks on the same grid, and properties; raise `TrainingError` naming the file."""
    image, masks, properties = _read(item, plans["image_orientation"])
    order = plans["transpose_forward"]
    image = image.transpose(order)
    whole = image.shape
    masks = {name: mask.transpose(order) for name, mask in masks.items()}
    spacing = [properties["spacing"][axis] for axis in order]
    inside = _filled(image != 0)
    box = _box(inside)
    image, inside = np.ascontiguousarray(image[box], dtype=np.float32), inside[box]
    masks = {name: np.where((mask[box] == 0) & ~inside, OUTSIDE, mask[box]) for name, mask in masks.items()}
    properties |= {
        "shape_before_cropping": whole,
        "bbox_used_for_cropping": [[edge.start, edge.stop] for edge in box],
        "shape_after_cropping_and_before_resampling": image.shape,
    }
    mean, std = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
    image = (image - mean) / max(std, SMALLEST_STD)
    if configuration["spacing"] is not None:
        shape = resample.new_shape(image.shape, spacing, configuration["spacing"])
        if 0 in shape:
            raise TrainingError(f"{item.path}: nothing is left of it at {configuration['spacing']} mm")
        axis = resample.slice_axis(spacing, configuration["spacing"])
        image = resample.resample_image(image, shape, axis)
        masks = {name: resample.resample_labels(mask, shape, axis) for name, mask in masks.items()}
    return image[None], {name: mask[None].astype(np.int8) for name, mask in masks.items()}, properties


def save(folder: Path, item: Item, plans: dict[str, Any], configuration: dict[str, Any], threads: int) -> None:
    """Preprocess an image and write it under temporary names; its .pkl, renamed last, says that it is whole."""
    image, masks, properties = preprocess(item, plans, configuration)
    place = folder / item.folder
    place.mkdir(parents=True, exist_ok=True)
    volumes: dict[str, NDArray[Any]] = {".b2nd": image, **{f"__{name}.b2nd": mask for name, mask in masks.items()}}
    partial = f".{item.stem}.part"
    for file in place.glob(f"{partial}*"):
        file.unlink()  # blosc2 refuses to overwrite what a killed process left behind
    patch = (PATCH,) * (image.ndim - 1)
    for ending, volume in volumes.items():
        # Masks have the image's blocks, so that a patch of both is read alike.
        layout = blocks_and_chunks(image.shape, image.itemsize)
        store.write_volume(place / f"{partial}{ending}", volume, patch, threads, layout)
    with (place / f"{partial}.pkl").open("wb") as stream:
        pickle.dump(properties, stream)  # nnssl reads this format; only our own cache is ever unpickled
    for ending in (*volumes, ".pkl"):
        (place / f"{partial}{ending}").replace(place / f"{item.stem}{ending}")


def is_done(folder: Path, item: Item) -> bool:
    """Whether an image was preprocessed to its end."""
    return (folder / item.folder / f"{item.stem}.pkl").is_file()


def blocks_and_chunks(shape: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return nnssl's shapes of blocks and chunks for an array (C, Z, Y, X); blocks fit a core's fastest cache."""
    channels, *size = shape
    block = [2 ** int(math.log2(PATCH / 2))] * len(size)
    while channels * math.prod(block) * itemsize > BLOCK_BYTES:
        # The longest edge, the last one of several, is halved; one that is the whole image stays.
        axis = max(
            (axis for axis in range(len(size)) if block[axis] not in (1, size[axis])),
            key=lambda axis: (block[axis], axis),
            default=None,
        )
        if axis is None:
            break
        block[axis] = min(2 ** int(math.log2(block[axis] - 1)), size[axis])
    block = [min(edge, whole) for edge, whole in zip(block, size, strict=True)]
    chunk = list(block)
    while channels * math.prod(chunk) * itemsize < CHUNK_BYTES and chunk != size:
        axis = min(
            (axis for axis in range(len(size)) if chunk[axis] != size[axis]), key=lambda axis: chunk[axis] / block[axis]
        )
        chunk[axis] = min(chunk[axis] + block[axis], size[axis])
    return (channels, *block), (channels, *chunk)


def _read(
    item: Item, orientation: str | None
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.integer[Any]]], dict[str, Any]]:
    """Return the image (Z, Y, X), its masks and its geometry in an orientation."""
    path = item.path
    image = open_image(path)
    way = Reorientation.to(orientation, image.affine) if orientation else None
    affine = image.affine
    if way is not None:
        turn = np.array([[axis, -1 if flip else 1] for axis, flip in zip(way.axes, way.flips, strict=True)])
        affine = affine @ nib.orientations.inv_ornt_aff(turn, (*image.shape, 1)[:3])

    def turned(volume: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = (way.apply(volume) if way else volume).T
        return found

    masks = {}
    for name, file in item.masks.items():
        mask = open_image(file)
        if not same_grid(image, mask):
            raise TrainingError(
                f"{file}: not on the grid of {path}: shape {mask.shape} and {image.shape}, or other affines",
                hint="resample the mask onto the image",
            )
        masks[name] = (turned(read_voxels(file, mask)) != 0).astype(np.int16)  # some programs write 255 for yes
    voxels = turned(read_voxels(path, image)).astype(np.float32)
    if not voxels.any():
        raise TrainingError(f"{path}: all voxels are 0")
    return voxels, masks, _geometry(affine)


def _geometry(affine: NDArray[np.float64]) -> dict[str, Any]:
    """Return voxel size, origin and direction as SimpleITK gives them, and the voxel size along Z, Y and X."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = LPS_TO_RAS @ (affine[:3, :3] / spacing)
    itk = {
        "spacing": tuple(spacing.tolist()),
        "origin": tuple((LPS_TO_RAS @ affine[:3, 3]).tolist()),
        "direction": tuple(direction.ravel().tolist()),
    }
    return {"sitk_stuff": itk, "spacing": spacing[::-1].tolist()}


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return found


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    return tuple(ndimage.find_objects(mask.astype(np.int8))[0])
