"""Bad examples for the rules: a good target, changed as the example.json of a folder in tests/data/checks says.

Beside example.json a folder may have `files/`, which is laid over the target. What example.json can say:

    base       archive | repo | run | dataset | encoder (an archive) | encoder_repo | document, or "test" for a rule
               that has a test of its own, or "pair": an archive that is compared with one that `before` made
    finding    where the finding must be: path, and a text that its line must hold
    also       codes that come with it
    folder     another name for the target's folder
    dataset    where in a repo a good dataset lies
    json       file → {key: value}; a dot goes deeper, a value "<none>" takes the key away
    replace    file → [old text, new text], or a list of such pairs
    write, remove, rename, copy, cut   small changes of files; cut takes bytes from the end
    checkpoint file → parts of a checkpoint; see `checkpoint_bytes`
    encoder    file → {drop: names of weights, or parts of the checkpoint with another value}
    png        file → {chunk, text}
    image      file → {voxel | scale | crop | bare | apart: value}
    archive    name, folder, beside: of the zip itself; flip: damages the byte at that text
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "checks"
NONE = "<none>"


class Called:
    """Names a function when it is pickled, as a malicious checkpoint does."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit",)


def examples() -> dict[str, dict[str, Any]]:
    """Return name of the folder → example.json."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*/example.json"))}


def tiny_weights() -> dict[str, Any]:
    """Return ones for each weight of the tiny run's network."""
    import torch
    from fixtures_run import plans

    from registry.networks import shapes

    architecture = plans()["configurations"]["3d_fullres"]["architecture"]
    return {name: torch.ones(shape) for name, shape in shapes(architecture, 1, 2).items()}


def checkpoint_bytes(parts: dict[str, Any]) -> bytes:
    """Return a checkpoint as torch writes it.

    The weights are those of the tiny network; `weights` replaces the first numbers (text for NaN), `zero` empties those
    of these names, `shapes` gives them other shapes. `calls` adds a call of os.system, `numpy` a numpy scalar; every
    other part stands in the file as it is.
    """
    import numpy as np
    import torch

    parts = dict(parts)
    weights = tiny_weights()
    first = next(iter(weights.values())).flatten()
    for number, value in enumerate(parts.pop("weights", [])):
        first[number] = float(value)
    for name in parts.pop("zero", []):
        weights[name].zero_()
    for name, shape in parts.pop("shapes", {}).items():
        weights[name] = torch.ones(shape)
    extra = {"calls": Called, "numpy": lambda: np.float64(1)}
    document = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **{key: make() for key, make in extra.items() if parts.pop(key, False)},
        **parts,
    }
    file = io.BytesIO()
    torch.save(document, file)
    return file.getvalue()


def png_bytes(chunk: str, text: str) -> bytes:
    """Return a picture of one pixel that carries a text in a chunk of that kind."""
    compressed = zlib.compress(text.encode())
    body = {
        "tEXt": b"Comment\0" + text.encode(),
        "zTXt": b"Comment\0\0" + compressed,
        "iTXt": b"Comment\0\1\0\0\0" + compressed,
        "eXIf": b"II*\0" + text.encode(),
    }[chunk]
    pieces = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (chunk.encode(), body),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(data)) + kind + data for kind, data in pieces]
    sums = [struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces]
    return b"\x89PNG\r\n\x1a\n" + b"".join(piece + check for piece, check in zip(packed, sums, strict=True))


def edited(document: Any, changes: dict[str, Any]) -> str:
    """Return a JSON document with other values."""
    for place, value in changes.items():
        *path, last = place.split(".")
        inner = document
        for key in path:
            inner = inner.setdefault(key, {})
        if value == NONE:
            del inner[last]
        else:
            inner[last] = value
    return json.dumps(document, indent=2) + "\n"


def change(folder: Path, example: dict[str, Any], name: str) -> None:
    """Change the files below a folder."""
    for old, new in example.get("rename", {}).items():
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    for old, new in example.get("copy", {}).items():
        shutil.copy(folder / old, folder / new)
    for path in example.get("remove", []):
        (shutil.rmtree if (folder / path).is_dir() else os.unlink)(folder / path)
    for path, text in example.get("write", {}).items():
        _put(folder / path, text.encode())
    for path, changes in example.get("json", {}).items():
        there = json.loads((folder / path).read_text()) if (folder / path).exists() else {}
        _put(folder / path, edited(there, changes).encode())
    for path, pairs in example.get("replace", {}).items():
        for old, new in pairs if isinstance(pairs[0], list) else [pairs]:
            text = (folder / path).read_text()
            assert old in text
            (folder / path).write_text(text.replace(old, new, 1))
    for path, parts in example.get("checkpoint", {}).items():
        _put(folder / path, checkpoint_bytes(parts))
    for path, count in example.get("cut", {}).items():
        (folder / path).write_bytes((folder / path).read_bytes()[:-count])
    for kind, changed in (("png", _put_png), ("encoder", _change_encoder), ("image", _change_image)):
        for path, parts in example.get(kind, {}).items():
            changed(folder / path, **parts)
    if (FOLDER / name / "files").is_dir():
        shutil.copytree(FOLDER / name / "files", folder, dirs_exist_ok=True)


def zipped(folder: Path, target: Path, example: dict[str, Any], trainer: str) -> Path:
    """Write an archive of a trainer folder, and what lies beside it."""
    about = example.get("archive", {})
    path = target / about.get("name", "model_seg_sc_t2-r20260131.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, f"{about.get('folder', trainer)}/{file.relative_to(folder).as_posix()}")
        for name, text in about.get("beside", {}).items():
            archive.writestr(name, text)
    if "flip" in about:
        data = bytearray(path.read_bytes())
        data[data.index(about["flip"].encode())] ^= 1
        path.write_bytes(data)
    return path


def _put_png(path: Path, **parts: str) -> None:
    _put(path, png_bytes(**parts))


def _change_encoder(path: Path, drop: tuple[str, ...] = (), **parts: Any) -> None:
    import torch

    state = torch.load(path, weights_only=True) | parts
    for name in drop:
        del state["network_weights"][name]
    torch.save(state, path)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _change_image(path: Path, **parts: float) -> None:
    import nibabel as nib
    import numpy as np

    image = nib.load(path)
    array, affine = np.asarray(image.dataobj).astype(np.float32), image.affine.copy()
    ((what, value),) = parts.items()
    if what == "voxel":
        array[0, 0, 0] = float(value)
    elif what == "scale":
        array *= value
    elif what == "crop":
        array = array[: -int(value)]
    new = nib.Nifti1Image(array, None if what == "bare" else affine)
    if what == "bare":
        new.header["sform_code"] = new.header["qform_code"] = 0
    elif what == "apart":
        new.set_sform(affine, 1)
        new.set_qform(affine + np.diag([0, 0, value, 0]), 1)
    elif what == "mirror":
        new = nib.Nifti1Image(array, affine @ np.diag([-1, 1, 1, 1]))
    nib.save(new, path)
