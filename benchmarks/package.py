"""`mreg package` against nnU-Net's own export of the same run, one after the other, in pairs.

    python benchmarks/package.py [PAIRS]

The run holds nnU-Net's default 3D network (about 31 million weights) as its trainer saves it after one step: weights,
momentum, log, figure. Prints the medians of the pairwise ratios; the claims are: at most 0.55 of the size, at least 5
times faster, and with --half at most 0.28 of the size. Fails where one does not hold.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
DEFAULT_3D = (32, 64, 128, 256, 320, 320)
LARGEST, HALF_LARGEST, FASTER = 0.55, 0.28, 5.0


def make_run(results: Path) -> Path:
    from fixtures_run import plans, train_nothing, write_documents

    plan = plans(DEFAULT_3D, patch=64)
    fold = train_nothing(results, plan)
    write_documents(fold.parent, plan)
    (fold / "validation").mkdir()
    (fold / "validation" / "summary.json").write_text("{}\n")  # without it nnU-Net's export stops
    return fold.parent


def export(run: Path, target: Path) -> Path:
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    with contextlib.redirect_stdout(io.StringIO()):
        export_pretrained_model(501, str(target), configurations=("3d_fullres",), folds=(0,))
    assert run.is_dir()
    return target


def package(run: Path, target: Path, *, half: bool = False) -> Path:
    from registry.archive import build
    from registry.runs import read_run

    with contextlib.redirect_stderr(io.StringIO()):
        return build(read_run(run), "model_seg_sc_t2", "r20261121", target, half=half).archive


def timed(call: Callable[[], Path]) -> tuple[float, int]:
    """Return seconds and bytes."""
    start = time.perf_counter()
    size = call().stat().st_size
    return time.perf_counter() - start, size


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = Path(folder, "results")
        os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(results)))
        with contextlib.redirect_stdout(io.StringIO()):
            run = make_run(results)
        checkpoint = (run / "fold_0" / "checkpoint_final.pth").stat().st_size
        print(f"checkpoint {checkpoint / 1e6:.1f} MB, {pairs} pairs")
        rows = []
        for number in range(pairs):
            out = Path(folder, str(number))
            out.mkdir()
            rows.append(
                (
                    timed(lambda out=out: export(run, out / "nnunet.zip")),
                    timed(lambda out=out: package(run, out / "full")),
                    timed(lambda out=out: package(run, out / "half", half=True)),
                )
            )
            for file in out.rglob("*.zip"):
                file.unlink()
    peer, full, half = zip(*rows, strict=True)
    for title, column in (("nnU-Net's export", peer), ("mreg package", full), ("mreg package --half", half)):
        seconds = statistics.median(value for value, _ in column)
        print(f"{title}: {column[0][1] / 1e6:.1f} MB, {seconds:.2f} s")
    for title, column, limit in (("mreg package", full, LARGEST), ("mreg package --half", half, HALF_LARGEST)):
        size = statistics.median(ours / theirs for (_, theirs), (_, ours) in zip(peer, column, strict=True))
        faster = statistics.median(theirs / ours for (theirs, _), (ours, _) in zip(peer, column, strict=True))
        print(f"{title}: {size:.3f} of the size, {faster:.1f} times faster")
        assert size <= limit
        assert faster >= FASTER


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
