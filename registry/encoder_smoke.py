"""What `mreg check --run` does with a pre-trained encoder: the network of its plan is built and takes its weights."""

from __future__ import annotations

import tempfile
import time
import zipfile
from pathlib import Path

from registry import encoder, workers
from registry.runs import FINAL
from registry.unpack import model_folder, require_archive, unpack_safely


def is_encoder_archive(path: Path) -> bool:
    """Whether an archive holds a pre-trained encoder; no member is read."""
    with zipfile.ZipFile(require_archive(path)) as archive:
        parts = [part for name in archive.namelist() for part in name.split("/")[:2]]
    return any(part.startswith(encoder.TRAINERS) for part in parts)


def run(archive: Path) -> str:
    """Load an archive's encoder into a network that its adaptation plan alone describes; return that in a sentence.

    Raises `MregError` where the plan or the weights do not allow it.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mreg-smoke-") as work:
        folder = model_folder(unpack_safely(archive, Path(work, "archive")))
        job = {"kind": "verify", "checkpoint": str(folder / encoder.FOLD / FINAL)}
        answer = workers.call(encoder.RECIPE, job)
    seconds = time.monotonic() - start
    return f"loaded in {seconds:.1f} s: a network of its plan takes {answer['taken']} weights of {answer['weights']}"
