"""Bytes to and from a registry, against curl, one after the other, in pairs.

    python benchmarks/transfer.py download [PAIRS] [MIB]

The registry is the tests' loopback GitHub in a process of its own; both sides write 1 GiB into the same folder. Ours
also computes the SHA-256 and flushes the file to the disk; the peer that does the same work is curl, `sync FILE` and
sha256sum. Printed, too: curl alone, and curl and sync. The claims are: at least 0.8 of that peer's throughput (median
of the pairs), and less than 100 MB more memory than before the transfer. Fails where one does not hold.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
TITLES = ("curl", "curl, sync", "curl, sync, sha256sum", "fetch")
SETTLE = 3.0  # seconds: memory that was just freed is faster than other memory, on virtual machines by much
NAME, SLOWEST, MOST_MEMORY = "model_seg_sc_t2", 0.8, 100e6


def serve(folder: Path, mib: int, pipe: Connection) -> None:
    """Be a GitHub with a small release and one of `mib` MiB, until the other side hangs up."""
    import hashlib

    from fakehub import FakeHub

    with FakeHub(folder) as hub:
        hub.add_repo(NAME, files={"README.md": b"#\n"})
        for tag, size in (("v0.1", 1), ("v1.0", mib)):
            release = hub.add_release(NAME, tag, {"weights.bin": b"x"})
            (asset,) = release["assets"].values()
            path, digest = hub.asset_path(asset["id"]), hashlib.sha256()
            with path.open("wb") as file:
                for _ in range(size):
                    file.write(chunk := os.urandom(1 << 20))
                    digest.update(chunk)
            asset.update(size=size << 20, digest=f"sha256:{digest.hexdigest()}")
        hub.save()
        pipe.send((hub.url, hub.token))
        pipe.recv()


def fetch_once() -> None:
    """Fetch the small file, then the large one, and say how long that took and how much memory it added."""
    from registry.download import fetch

    fetch(f"{NAME}@v0.1", asset="weights.bin")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    fetched = fetch(f"{NAME}@v1.0", asset="weights.bin")
    seconds = time.perf_counter() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"seconds": seconds, "extra": extra, "sha256": fetched.sha256}))


def timed(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def download(pairs: int, mib: int, folder: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder / "hub", mib, theirs))
    server.start()
    url, token = ours.recv()
    os.environ |= {"GITHUB_API_URL": url, "GITHUB_TOKEN": token, "MREG_REGISTRY": "github:ivadomed"}
    os.environ["MREG_CACHE"] = str(folder / "cache")
    address = f"{url}/ivadomed/{NAME}/releases/download/v1.0/weights.bin"
    target = folder / "curl.bin"
    rows, extra = [], []
    for number in range(-1, pairs):  # the first pair warms up and does not count
        time.sleep(SETTLE)
        curl = timed("curl", "-sSfL", "-o", str(target), address)
        synced = curl + timed("sync", str(target))
        summed = synced + timed("sha256sum", str(target))
        target.unlink()
        time.sleep(SETTLE)
        start = time.perf_counter()
        said = subprocess.run(
            [sys.executable, __file__, "fetch-once"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        whole, result = time.perf_counter() - start, json.loads(said.stdout)
        shutil.rmtree(folder / "cache")
        if number >= 0:
            rows.append((curl, synced, summed, result["seconds"], whole))
            extra.append(result["extra"])
    ours.send("stop")
    server.join()
    for title, column in zip(TITLES, zip(*rows, strict=True), strict=False):
        ratios = sorted(seconds / row[3] for seconds, row in zip(column, rows, strict=True))
        against = (
            f"throughput of fetch against it {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
        print(f"{title}: {mib / statistics.median(column):.0f} MiB/s" + (f", {against}" if title != "fetch" else ""))
    whole = statistics.median(row[4] for row in rows)
    print(f"fetch with the start of Python and another, small download: {whole:.2f} s")
    print(f"fetch: {max(extra) / 1e6:.1f} MB more memory")
    assert max(extra) < MOST_MEMORY
    assert statistics.median(row[2] / row[3] for row in rows) >= SLOWEST


if __name__ == "__main__":
    what, *numbers = sys.argv[1:] or ["download"]
    if what == "fetch-once":
        fetch_once()
    else:
        count, size = [*map(int, numbers), *(5, 1024)[len(numbers) :]]
        with tempfile.TemporaryDirectory() as place:
            {"download": download}[what](count, size, Path(place))
