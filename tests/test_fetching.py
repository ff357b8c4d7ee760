"""mreg fetch as processes do it: shared caches, kills, mirrors, no network, no stray token."""

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import COMMAND, run_mreg
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME

from registry import notes, transfer
from registry.download import fetch
from registry.errors import MregError
from registry.files import sha256
from registry.sources import mirrors_of

SIZE = 40_000_000


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def big(github, tmp_path):
    """A release of one archive of 40 MB on GitHub, made without mreg."""
    add_repo(github, tmp_path / "first-commit")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.pth", os.urandom(SIZE))
    path = tmp_path / "published" / "model.zip"
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    publish(github, "v1.0", path)
    return path


def start(*arguments, cwd):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wire_bytes(hub):
    return sum(request.sent for request in hub.requests if request.server == "storage")


# --- a cache that processes share ------------------------------------------------------------------------------------


def test_eight_processes_at_once_download_once(released_github, hub, tiny_package, tmp_path):
    hub.requests.clear()
    processes = [start("fetch", NAME, "--registry", "github:ivadomed", cwd=tmp_path) for _ in range(8)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for _, _, code in ends] == [0] * 8, ends
    (path,) = {out.strip() for out, _, _ in ends}
    assert sha256(tmp_path / path) == sha256(tiny_package.archive)
    archive = tiny_package.archive.name
    downloads = [r for r in hub.requests if r.method == "GET" and r.path.endswith(archive)]
    assert len(downloads) == 1
    manifest = tiny_package.manifest.stat().st_size
    assert wire_bytes(hub) == tiny_package.archive.stat().st_size + 8 * manifest


def test_a_killed_download_goes_on_where_it_was(big, hub, tmp_path):
    """Three kills at random bytes; what the wire carried is counted at the server."""
    hub.requests.clear()
    hub.rate = 30e6  # slow enough that little waits in the buffers of a process that is killed
    bounds = sorted(1_000_000 + secrets.randbelow(SIZE - 2_000_000) for _ in range(3))
    for bound in bounds:
        process = start("fetch", NAME, "--registry", "github:ivadomed", cwd=tmp_path)
        while _parted(tmp_path) < bound:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    hub.rate = 0
    done = run_mreg("fetch", NAME, "--registry", "github:ivadomed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / done.stdout.strip()) == sha256(big)
    # A killed process loses what was in its memory and in the system's buffers.
    assert wire_bytes(hub) <= 1.1 * big.stat().st_size, bounds
    assert wire_bytes(hub) >= big.stat().st_size


def _parted(folder):
    return sum(path.stat().st_size for path in (folder / "cache" / "archives").rglob(".*.part"))


# --- mirrors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path):
    """A web server of a folder, which knows no ranges and counts its requests."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    seen = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        server.folder, server.seen = folder, seen
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()


def name_mirrors(store, *urls):
    (release,) = store.releases(NAME)
    store.set_notes(release, notes.write_block(release.notes, notes.Block(mirrors=urls)))


def break_registry(store, request):
    """Let the registry lose the archive's bytes."""
    if store.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        (release,) = hub.repo(NAME)["releases"].values()
        archive = next(a for a in release["assets"].values() if a["name"].endswith(".zip"))
        hub.fault("GET", f"release-assets/{archive['id']}", "status", times=99, status=503)
        return
    (path,) = store.root.rglob("*.zip")
    path.unlink()


def test_where_the_registry_fails_the_mirrors_are_tried_in_order(released, tiny_package, mirror, request, capsys):
    name = tiny_package.archive.name
    (mirror.folder / "bad").mkdir()
    (mirror.folder / "good").mkdir()
    raw = tiny_package.archive.read_bytes()
    (mirror.folder / "bad" / name).write_bytes(raw[:-1] + b"x")
    (mirror.folder / "good" / name).write_bytes(raw)
    addresses = [f"{mirror.url}/{place}/{name}" for place in ("gone", "bad", "good", "never")]
    name_mirrors(released, *addresses)
    break_registry(released, request)
    fetched = fetch(NAME, released)
    assert fetched.path.read_bytes() == raw
    assert [path for path, _ in mirror.seen] == [f"/{place}/{name}" for place in ("gone", "bad", "good")]
    assert "trying the mirror" in capsys.readouterr().err
    assert not any("authorization" in (h.lower() for h in headers) for _, headers in mirror.seen)


def test_mirrors_that_lie_give_nothing(released, tiny_package, mirror, request, tmp_path):
    (mirror.folder / tiny_package.archive.name).write_bytes(b"PK\x05\x06" + bytes(18))
    name_mirrors(released, f"{mirror.url}/{tiny_package.archive.name}")
    break_registry(released, request)
    with pytest.raises(MregError, match="the mirror has not helped"):
        fetch(NAME, released, out=tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_without_a_manifest_no_mirror_is_asked(registry, mirror, request, tmp_path):
    (tmp_path / "model.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    shutil.copy(tmp_path / "model.zip", mirror.folder)
    publish(registry, TAG, tmp_path / "model.zip")
    name_mirrors(registry, f"{mirror.url}/model.zip")
    break_registry(registry, request)
    with pytest.raises(Exception, match=r"model\.zip"):
        fetch(NAME, registry)
    assert mirror.seen == []


def test_a_mirror_continues_what_the_registry_began(released_github, hub, tiny_package, mirror, tmp_path):
    raw, name = tiny_package.archive.read_bytes(), tiny_package.archive.name
    (mirror.folder / name).write_bytes(raw)
    name_mirrors(released_github, f"{mirror.url}/{name}")
    (tmp_path / "out").mkdir()
    part = tmp_path / "out" / f".{name}.{sha256(tiny_package.archive)[:16]}.part"
    part.write_bytes(raw[: len(raw) // 2])
    hub.fault("GET", r"releases/download/.*\.zip", "status", times=99, status=500)
    assert fetch(NAME, released_github, out=tmp_path / "out").path.read_bytes() == raw
    assert mirror.seen[0][1]["Range"] == f"bytes={len(raw) // 2}-"


def test_a_mirror_of_another_archive_is_not_taken():
    urls = ["https://zenodo.org/records/1/files/a.zip?download=1", "https://osf.io/download/abc12/#b.zip"]
    assert mirrors_of(urls, "a.zip", 2) == urls[:1]
    assert mirrors_of(urls, "b.zip", 2) == urls[1:]
    assert mirrors_of(["https://osf.io/download/abc12/"], "a.zip", 2) == []
    assert mirrors_of(["https://osf.io/download/abc12/"], "a.zip", 1) == ["https://osf.io/download/abc12/"]


def test_a_public_registry_names_no_file_of_this_machine(released_github, tiny_package, request, tmp_path):
    shutil.copy(tiny_package.archive, tmp_path)
    name_mirrors(released_github, (tmp_path / tiny_package.archive.name).as_uri())
    break_registry(released_github, request)
    with pytest.raises(Exception, match="503"):
        fetch(NAME, released_github)


# --- without a network -----------------------------------------------------------------------------------------------


def test_offline_gives_what_was_fetched_before_and_nothing_else(released, tiny_package, mreg, request, tmp_path):
    again = ("fetch", NAME, "--offline", "--registry", released.location)
    empty = mreg(*again)
    assert empty.exit_code == 1
    assert "not in the cache" in empty.stderr
    assert empty.stdout == ""
    path = mreg("fetch", NAME, "--registry", released.location).stdout
    if released.location.startswith("dir:"):
        shutil.rmtree(released.root)
    else:
        request.getfixturevalue("hub").requests.clear()
    assert mreg(*again).stdout == path
    copied = mreg("fetch", f"{NAME}@{TAG}", "--offline", "--registry", released.location, "-o", tmp_path / "out")
    assert (tmp_path / "out" / tiny_package.archive.name).read_bytes() == tiny_package.archive.read_bytes()
    assert copied.exit_code == 0
    unpacked = mreg(*again, "--unpack")
    assert (tmp_path / unpacked.stdout.strip()).is_dir()
    assert mreg("fetch", f"{NAME}@r20990101", "--offline", "--registry", released.location).exit_code == 1
    if released.location.startswith("github:"):
        assert request.getfixturevalue("hub").requests == []


def test_the_environment_forbids_the_network_too(released_github, hub, mreg, monkeypatch):
    mreg("fetch", NAME, "--registry", "github:ivadomed")
    hub.requests.clear()
    monkeypatch.setenv("MREG_OFFLINE", "1")
    assert mreg("fetch", NAME, "--registry", "github:ivadomed").exit_code == 0
    listed = mreg("list", "--registry", "github:ivadomed")
    assert listed.exit_code == 1
    assert "MREG_OFFLINE forbids the network" in listed.stderr
    assert hub.requests == []


def test_offline_takes_an_archive_from_a_path(tiny_package, mreg, tmp_path):
    result = mreg("fetch", tiny_package.archive, "--offline", "--unpack", "-o", tmp_path)
    assert result.exit_code == 0
    assert (tmp_path / tiny_package.archive.stem).is_dir()


def test_an_address_is_remembered_offline(tiny_package, mirror, mreg):
    shutil.copy(tiny_package.archive, mirror.folder)
    url = f"{mirror.url}/{tiny_package.archive.name}"
    first = mreg("fetch", url)
    seen = len(mirror.seen)
    assert mreg("fetch", url, "--offline").stdout == first.stdout
    assert len(mirror.seen) == seen


def test_offline_a_spoilt_archive_is_not_given(released, mreg):
    path = mreg("fetch", NAME, "--registry", released.location).stdout.strip()
    os.truncate(path, 1000)
    result = mreg("fetch", NAME, "--offline", "--registry", released.location)
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_manifest_beside_an_archive_is_believed(tiny_package, mreg, tmp_path):
    for file in tiny_package:
        shutil.copy(file, tmp_path)
    archive = tmp_path / tiny_package.archive.name
    assert mreg("fetch", archive).exit_code == 0
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr("more.txt", "x")
    result = mreg("fetch", archive)
    assert result.exit_code == 1
    assert "not the file that mreg-release.json beside it names" in result.stderr


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_the_token_goes_to_the_registry_alone(released_github, hub, tiny_package, mirror, mreg):
    (mirror.folder / tiny_package.archive.name).write_bytes(tiny_package.archive.read_bytes())
    name_mirrors(released_github, f"{mirror.url}/{tiny_package.archive.name}")
    hub.fault("GET", "release-assets/.*", "alter", times=99)
    hub.requests.clear()
    result = mreg("fetch", NAME, "--registry", "github:ivadomed", "--json")
    assert "authorization" not in json.dumps(mirror.seen).lower()
    assert not any("authorization" in r.headers for r in hub.requests if r.server == "storage")
    assert hub.token not in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["../evil.zip", "a/b.zip", "..\\evil.zip", ".hidden.zip"])
def test_an_asset_whose_name_leads_away_is_refused(released_github, hub, mreg, tmp_path, name):
    (release,) = hub.repo(NAME)["releases"].values()
    archive = next(a for a in release["assets"].values() if a["name"].endswith(".zip"))
    archive["name"] = name
    for asset in list(release["assets"].values()):
        if asset is not archive:
            del release["assets"][str(asset["id"])]
    result = mreg("fetch", NAME, "--registry", "github:ivadomed", "-o", tmp_path / "deep" / "out")
    assert (result.exit_code, "cannot be the name of an asset" in result.stderr) == (1, True)
    assert not list(tmp_path.glob("deep/**/*.zip"))
    verified = mreg("verify", NAME, "--registry", "github:ivadomed")
    assert verified.exit_code == 1
