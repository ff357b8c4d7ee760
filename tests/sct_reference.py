"""What the Spinal Cord Toolbox does with an installed model of cropped images, step by step, with nothing of ours.

Written from the description of its steps: unzip, strip one top folder, read crop_metadata.json beside the trainer
folder, crop around what the detector found, turn to the model's orientation, run nnU-Net's own predictor, turn back,
put the result into the whole image, one file a label. The detector itself is not here: its box is an argument.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

PADS = ("pad_superior", "pad_inferior", "pad_left", "pad_right", "pad_anterior", "pad_posterior")


def install(archive: Path, folder: Path) -> Path:
    """Unzip an archive as SCT does; return the folder that holds nnUNetTrainer*."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    entries = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    if len(entries) == 1 and entries[0].is_dir() and "nnUNetTrainer" not in entries[0].name:
        return entries[0]
    return folder


def margins(model: Path) -> dict[str, float]:
    """Return the paddings; a missing file or key stops SCT."""
    path = model / "crop_metadata.json"
    if not path.is_file():
        raise RuntimeError("crop_metadata.json is missing")
    document = json.loads(path.read_text())
    if missing := [key for key in PADS if key not in document]:
        raise RuntimeError(f"crop_metadata.json lacks {missing}")
    return {key: float(document[key]) for key in PADS}


def reoriented(image: Any, axes: tuple[str, str, str]) -> Any:
    """Return an image with its axes running towards these sides."""
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))


def bounding_box(image: Any, cord: Any, pads: dict[str, float]) -> list[slice]:
    """Return the padded box around the cord in the image's own voxels: margins are added in LAS and clamped."""
    las = reoriented(cord, ("L", "A", "S"))
    voxels = np.argwhere(np.asarray(las.dataobj) > 0)
    # In LAS the low end of the axes is right, posterior and inferior.
    low = [pads[key] for key in ("pad_right", "pad_posterior", "pad_inferior")]
    high = [pads[key] for key in ("pad_left", "pad_anterior", "pad_superior")]
    inside = np.zeros(las.shape, dtype=np.uint8)
    ranges = []
    for axis, zoom in enumerate(las.header.get_zooms()[:3]):
        start = max(0, voxels[:, axis].min() - math.ceil(round(low[axis] / float(zoom), 4)))
        stop = min(las.shape[axis], voxels[:, axis].max() + 1 + math.ceil(round(high[axis] / float(zoom), 4)))
        ranges.append(slice(start, stop))
    inside[tuple(ranges)] = 1
    native = reoriented(nib.Nifti1Image(inside, las.affine), nib.aff2axcodes(image.affine))
    found = np.argwhere(np.asarray(native.dataobj) > 0)
    return [slice(int(a), int(b) + 1) for a, b in zip(found.min(axis=0), found.max(axis=0), strict=True)]


def segment(model: Path, image: Any, cord: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the label map (x, y, z) of an image, and what SCT writes: suffix → mask."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    (trainer,) = model.glob("nnUNetTrainer*")
    folds = tuple(int(path.name.rpartition("_")[2]) for path in trainer.glob("fold_*"))
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(trainer), folds, "checkpoint_final.pth")
    box = bounding_box(image, cord, margins(model))
    crop = image.slicer[tuple(box)]
    code = predictor.dataset_json["image_orientation"]
    turned = reoriented(crop, tuple(code.translate(str.maketrans("RLAPIS", "LRPASI"))))
    data = np.asarray(turned.dataobj).transpose(2, 1, 0)[None].astype(np.float32)
    spacing = [float(zoom) for zoom in turned.header.get_zooms()[:3]][::-1]
    labels = predictor.predict_single_npy_array(data, {"spacing": spacing}).transpose(2, 1, 0)
    back = reoriented(nib.Nifti1Image(labels.astype(np.uint8), turned.affine), nib.aff2axcodes(image.affine))
    whole = np.zeros(image.shape, dtype=np.uint8)
    whole[tuple(box)] = np.asarray(back.dataobj)
    names = {name: value for name, value in predictor.dataset_json["labels"].items() if name != "background"}
    return whole, {f"_{name}_seg": np.isin(whole, value) for name, value in names.items()}
