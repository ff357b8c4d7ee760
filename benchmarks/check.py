"""`mreg check` of a large archive against sha256sum of the same file, one after the other, in pairs.

    python benchmarks/check.py [PAIRS]

The archive is what `mreg package` makes of a run of four folds of nnU-Net's default 3D network (31 million weights
each, 500 MB in all), its manifest beside it, so that every byte is hashed. Measured, too: without the manifest, and the
same files deflated, as nnU-Net's own export has them. The claims, of the first: at least half of sha256sum's speed
(median of the pairs), less than 100 MB more memory than `mreg --version` (its peak). Fails where one does not hold.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

from package import make_run, package

FOLDS, SLOWEST, MOST_MEMORY = 4, 0.5, 100e6
MREG = [sys.executable, "-P", "-m", "registry"]
RUNNER = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(child, 0)
print(time.perf_counter() - start, used.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    memory: int  # bytes, at its peak


def cost(*command: str) -> Cost:
    """Run a command to its end, started by a process that is smaller: a child's peak begins with its parent's."""
    runner = [sys.executable, "-IS", "-c", RUNNER, *command]
    said = subprocess.run(runner, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, memory, status = said.split()
    assert int(status) == 0, command
    return Cost(float(seconds), int(memory))


def deflated(archive: Path, target: Path) -> Path:
    """Pack an archive's files again, compressed."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for info in source.infolist():
            with source.open(info) as file, new.open(info.filename, "w") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
    return target


def archives(folder: Path) -> dict[str, Path]:
    """Build the archives; what is written is flushed, so that no later run pays for it."""
    results = folder / "results"
    os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(results)))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = make_run(results)
        for number in range(1, FOLDS):
            shutil.copytree(run / "fold_0", run / f"fold_{number}")
        packed = package(run, folder / "packed")
    shutil.rmtree(results)
    (folder / "bare").mkdir()
    bare = Path(shutil.copy(packed, folder / "bare"))
    made = {"with its manifest": packed, "alone": bare, "deflated": deflated(packed, folder / "bare" / "model-r1.zip")}
    os.sync()
    return made


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        with multiprocessing.get_context("spawn").Pool(1) as builder:
            made = builder.apply(archives, (Path(place),))
        least = min(cost(*MREG, "--version").memory for _ in range(3))
        print(f"mreg --version: {least / 1e6:.0f} MB; {pairs} pairs")
        worst = {}
        for title, archive in made.items():
            check = (*MREG, "check", str(archive))
            cost(*check)  # the first pair warms up and does not count
            rows = [(cost("sha256sum", str(archive)), cost(*check)) for _ in range(pairs)]
            speeds = sorted(theirs.seconds / ours.seconds for theirs, ours in rows)
            more = max(ours.memory for _, ours in rows) - least
            peer, ours = (statistics.median(row[side].seconds for row in rows) for side in (0, 1))
            worst[title] = (statistics.median(speeds), more)
            print(
                f"{title}, {archive.stat().st_size / 1e6:.1f} MB: sha256sum {peer:.2f} s, mreg check {ours:.2f} s, "
                f"{statistics.median(speeds):.2f} of its speed ({speeds[0]:.2f} to {speeds[-1]:.2f}), "
                f"{more / 1e6:.0f} MB more memory"
            )
    speed, more = worst["with its manifest"]
    assert speed >= SLOWEST
    assert more < MOST_MEMORY


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
