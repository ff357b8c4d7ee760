"""Bytes to and from a registry, against curl, one after the other, in pairs.

    python benchmarks/transfer.py download|upload [PAIRS] [MIB]

The registry is the tests' loopback GitHub in a process of its own. It is not what limits: files go out by sendfile, and
of an upload it reads everything and keeps nothing (its digest is that of the file, which both sides send).

Download: both write the file into the same folder. Ours also computes the SHA-256 and flushes the file to the disk; the
peer that does the same work is curl, `sync FILE` and sha256sum. Upload: `curl -T` against the upload of `mreg release`,
which knows the SHA-256 from packing and compares the registry's with it. Claims: at least 0.8 of curl's throughput
(median of the pairs), and less than 100 MB more memory than before. Each prints what holds, and fails where one does
not.

Processor seconds a GiB are printed beside the wall clock's: where other work shares the cores, they are what can be
compared.
"""

from __future__ import annotations

import hashlib
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
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SETTLE = 3.0  # seconds: memory that was just freed is faster than other memory, on virtual machines by much
NAME, SLOWEST, MOST_MEMORY = "model_seg_sc_t2", 0.8, 100e6


class Cost(NamedTuple):
    """What one way of moving the bytes took, in seconds."""

    wall: float
    processor: float  # of the client

    def __add__(self, other: object) -> Cost:
        """Return the sum of two, one after the other."""
        return Cost(self.wall + other.wall, self.processor + other.processor) if isinstance(other, Cost) else self


def serve(folder: Path, mib: int, pipe: Connection) -> None:
    """Be a GitHub with a small release, one of `mib` MiB and a draft, until the other side hangs up."""
    from fakehub import FakeHub, releases, server, views

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
        whole, known = path, asset["digest"]
        draft = hub.add_release(NAME, "v2.0", draft=True)

        def swallow(hub: FakeHub, request: server.Request, **_: str) -> server.Answer:
            """Take an upload and keep nothing of it."""
            size = sum(map(len, request.stream()))
            made = releases.new_asset(hub, draft, request.query["name"], "application/octet-stream", "", "ada")
            made.update(state="uploaded", size=size, digest=known if size == mib << 20 else "sha256:" + "0" * 64)
            return server.Answer(views.asset(hub, hub.repo(NAME), draft, made), 201)

        swallow.__name__ = "upload"
        routes = server.ROUTES
        routes[:] = [(verb, path, swallow if f is releases.upload else f) for verb, path, f in routes]
        hub.save()
        pipe.send((hub.url, hub.token, str(draft["id"]), str(whole)))
        pipe.recv()


def measured(work: Callable[[], Any]) -> tuple[Cost, Any]:
    """Run something; return its cost with that of its children, and its result."""
    before, start = _processor(), time.perf_counter()
    result = work()
    return Cost(time.perf_counter() - start, _processor() - before), result


def _processor() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def timed(*command: str) -> Cost:
    """Run a program."""
    return measured(lambda: subprocess.run(command, check=True, capture_output=True))[0]


def within(warm: Callable[[], Any], work: Callable[[], Any]) -> None:
    """Do the small thing, then the large one, and say what that took and how much memory it added."""
    warm()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost, _ = measured(work)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"cost": cost, "extra": extra}))


def fetch_once() -> None:
    """Fetch the small file, then the large one."""
    from registry.download import fetch

    within(lambda: fetch(f"{NAME}@v0.1", asset="weights.bin"), lambda: fetch(f"{NAME}@v1.0", asset="weights.bin"))


def upload_once(file: str, digest: str) -> None:
    """Upload a small file, then the large one, whose SHA-256 is known from its packing as it is to `mreg release`."""
    from registry.stores.github import GitHubStore

    store = GitHubStore("ivadomed")
    draft = next(release for release in store.releases(NAME) if release.draft)
    large, small = Path(file), Path(file).with_name("small.txt")
    small.write_text("x")

    def first() -> None:
        try:
            store.upload(draft, small)
        except Exception as error:  # noqa: BLE001 - its digest is not the large file's
            print(error, file=sys.stderr)

    store._api.pace = type(store._api.pace)(tries=1)  # noqa: SLF001
    within(first, lambda: store.upload(draft, large, digest=digest))


def child(*words: str) -> tuple[Cost, float]:
    """Run one of the two above in a process of its own; return its cost and the memory that it added."""
    said = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    result = json.loads(said.stdout)
    return Cost(*result["cost"]), result["extra"]


def report(mib: int, titles: tuple[str, ...], rows: list[tuple[Cost, ...]], extra: list[float]) -> None:
    """Print the table; the last column is ours, the first is curl."""
    for title, column in zip(titles, zip(*rows, strict=True), strict=True):
        speed = mib / statistics.median(cost.wall for cost in column)
        processor = statistics.median(cost.processor for cost in column) * 1024 / mib
        ratios = sorted(cost.wall / row[-1].wall for cost, row in zip(column, rows, strict=True))
        against = f"; ours against it {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{title}: {speed:.0f} MiB/s, {processor:.2f} processor s/GiB" + (against if title != titles[-1] else ""))
    print(f"{len(rows)} pairs; {max(extra) / 1e6:.1f} MB more memory")
    assert max(extra) < MOST_MEMORY
    assert statistics.median(row[0].wall / row[-1].wall for row in rows) >= SLOWEST, "slower than 0.8 of curl"


def download(pairs: int, mib: int, folder: Path, url: str, number: str, whole: str) -> None:
    """Compare downloads."""
    del number, whole
    os.environ["MREG_CACHE"] = str(folder / "cache")
    address = f"{url}/ivadomed/{NAME}/releases/download/v1.0/weights.bin"
    target = folder / "curl.bin"
    rows, extra = [], []
    for pair in range(-1, pairs):  # the first pair warms up and does not count
        time.sleep(SETTLE)
        curl = timed("curl", "-sSfL", "-o", str(target), address)
        synced = curl + timed("sync", str(target))
        summed = synced + timed("sha256sum", str(target))
        target.unlink()
        time.sleep(SETTLE)
        cost, more = child("fetch-once")
        shutil.rmtree(folder / "cache")
        if pair >= 0:
            rows.append((curl, synced, summed, cost))
            extra.append(more)
    report(mib, ("curl", "curl, sync", "curl, sync, sha256sum", "mreg fetch"), rows, extra)


def upload(pairs: int, mib: int, folder: Path, url: str, number: str, whole: str) -> None:
    """Compare uploads of a file that lies in the page cache."""
    source = folder / "model.bin"
    shutil.copyfile(whole, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    rows, extra = [], []
    for pair in range(-1, pairs):
        time.sleep(SETTLE)
        address = f"{url}/repos/ivadomed/{NAME}/releases/{number}/assets?name=curl{pair}.bin"
        headers = ["-H", f"Authorization: Bearer {os.environ['GITHUB_TOKEN']}", "-H", "Expect:"]
        headers += ["-H", "Content-Type: application/octet-stream"]
        curl = timed("curl", "-sSf", "-X", "POST", "-T", str(source), *headers, "-o", os.devnull, address)
        summed = curl + timed("sha256sum", str(source))
        ours = folder / f"model{pair}.bin"
        source.rename(ours)
        time.sleep(SETTLE)
        cost, more = child("upload-once", str(ours), digest)
        ours.rename(source)
        if pair >= 0:
            rows.append((curl, summed, cost))
            extra.append(more)
    report(mib, ("curl -T", "curl -T, sha256sum", "upload of mreg release"), rows, extra)


def main(what: str, pairs: int = 5, mib: int = 1024) -> None:
    """Start the server, run one comparison."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder / "hub", mib, theirs))
        server.start()
        url, token, number, whole = ours.recv()
        os.environ |= {"GITHUB_API_URL": url, "GITHUB_TOKEN": token, "MREG_REGISTRY": "github:ivadomed"}
        try:
            {"download": download, "upload": upload}[what](pairs, mib, folder, url, number, whole)
        finally:
            ours.send("stop")
            server.join()


if __name__ == "__main__":
    what, *words = sys.argv[1:] or ["download"]
    if what == "fetch-once":
        fetch_once()
    elif what == "upload-once":
        upload_once(*words)
    else:
        main(what, *map(int, words))
