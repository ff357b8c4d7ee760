"""Whatever goes wrong on the way: a release ends whole, once, and nobody ever sees a part of it."""

import contextlib
import random
import re
import subprocess
import threading
import time

import pytest
import requests
from command import COMMAND
from fixtures_release import TAG, add_repo
from fixtures_stores import NAME

from registry import read_back
from registry.errors import MregError
from registry.files import sha256
from registry.releases import release
from registry.stores.github import GitHubStore

STEPS = {
    "draft": ("POST", "/releases$"),
    "upload 1": ("POST", r"/assets\?name=.*\.zip"),
    "upload 2": ("POST", r"/assets\?name=mreg-release\.json"),
    "publish": ("PATCH", r"/releases/\d+$"),
}
SENT = {"upload 1": f"{NAME}-{TAG}.zip", "upload 2": "mreg-release.json"}
FAULTS = {
    "502 before": {"kind": "status", "status": 502},
    "502 after": {"kind": "late", "status": 502},
    "reset at the first bytes": {"kind": "reset", "after": 50},
    "reset near the end": {"kind": "reset", "after": 100},  # of a JSON body; of a file below
    "lost": {"kind": "lost"},
    "altered": {"kind": "alter"},
    "503 three times": {"kind": "status", "status": 503, "times": 3},
    "secondary limit": {"kind": "limit", "retry_after": 7},
    "primary limit": {"kind": "quota", "seconds": 30},
    "lag": {"kind": "lag", "times": 2},
}


@pytest.fixture
def repo(packed_repo):
    """A repo with a run, and its package of TAG in dist."""
    return packed_repo


@pytest.fixture
def reader(hub):
    """Somebody who looks at the public release all the time; gives the sets of whole assets that they saw."""
    seen, stop = set(), threading.Event()
    address = f"{hub.url}/repos/{hub.org}/{NAME}/releases/tags/{TAG}"

    def poll():
        with requests.Session() as session, contextlib.suppress(requests.ConnectionError):
            while not stop.is_set():
                answer = session.get(address, timeout=5)
                if answer.status_code == 200:
                    assets = answer.json()["assets"]
                    seen.add(frozenset(a["name"] for a in assets if a["state"] == "uploaded"))
                time.sleep(0.002)

    thread = threading.Thread(target=poll)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def require_whole(hub, repo):
    """The one release is public and has exactly what lies in dist; no draft and no broken asset is left."""
    (only,) = hub.repo(NAME)["releases"].values()
    assert (only["draft"], only["tag_name"]) == (False, TAG)
    there = {a["name"]: (a["state"], a["digest"]) for a in hub.assets(only)}
    files = list((repo.dist / TAG).iterdir())
    assert len(files) == 3
    assert there == {f.name: ("uploaded", f"sha256:{sha256(f)}") for f in files}
    for asset in hub.assets(only):
        assert sha256(hub.asset_path(asset["id"])) == asset["digest"].removeprefix("sha256:")


def require_seen_whole(reader):
    """The reader has seen the public release, and never without one of its files."""
    patience = time.monotonic() + 5
    while not reader and time.monotonic() < patience:
        time.sleep(0.002)
    assert {len(names) for names in reader} == {3}, reader


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_step_ends_in_a_whole_release(github, hub, repo, reader, tmp_path, name, step):
    add_repo(github, tmp_path / "first-commit")
    hub.requests.clear()
    (method, path), options = STEPS[step], dict(FAULTS[name])
    if step.startswith("upload") and name == "502 after":
        options = {"kind": "status", "status": 502, "starter": True}
    if not step.startswith("upload") and name == "altered":
        options = {"kind": "truncate"}  # TLS keeps a document from changing, not from ending
    if name == "reset near the end" and step in SENT:
        options["after"] = (repo.dist / TAG / SENT[step]).stat().st_size - 40
    if name in ("primary limit", "lag"):
        options["since"] = f"{method} .*{path}"
        method, path = "GET", r"/releases(?!/tags)" if name == "primary limit" else r"/releases\?"  # not the reader's
    hub.fault(method, path, **options)
    assert release(repo, GitHubStore(hub.org), tag=TAG).published
    assert not any(fault.times for fault in hub.faults)
    require_whole(hub, repo)
    require_seen_whole(reader)
    if name == "secondary limit":
        assert 7.0 in hub.sleeps
    if name == "primary limit":
        assert any(20 < seconds <= 30 for seconds in hub.sleeps)
    if name == "lag":
        assert set(read_back.WAITS) & set(hub.sleeps)


def test_a_lost_answer_and_a_list_that_lags_make_no_second_draft(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    hub.requests.clear()
    hub.fault("POST", "/releases$", "lost")
    hub.fault("GET", r"/releases\?", "lag", times=2, since="POST .*/releases$")
    assert release(repo, GitHubStore(hub.org), tag=TAG).published
    assert hub.count("POST", "/releases$") == 1
    require_whole(hub, repo)


@pytest.mark.parametrize("immutable", [False, True])
def test_published_bytes_are_left_alone_and_a_dry_run_only_asks(github, hub, repo, tmp_path, immutable):
    add_repo(github, tmp_path / "first-commit")
    hub.repo(NAME)["immutable"] = immutable
    hub.requests.clear()
    assert release(repo, github, tag=TAG, dry_run=True).changed is False
    assert {r.method for r in hub.requests} == {"GET"}
    assert release(repo, github, tag=TAG).published
    require_whole(hub, repo)
    hub.requests.clear()
    again = release(repo, github, tag=TAG)
    assert (again.published, again.changed) == (True, False)
    assert {r.method for r in hub.requests} == {"GET"}


@pytest.mark.parametrize("number", range(4))
def test_of_two_releases_at_once_one_wins_and_the_other_says_so(github, hub, repo, reader, tmp_path, number):
    add_repo(github, tmp_path / "first-commit")
    release(repo, github, tag=TAG, dry_run=True)
    (repo.dist / TAG / "SHA256SUMS").unlink(missing_ok=True)
    barrier, outcomes = threading.Barrier(2), []

    def run():
        store = GitHubStore(hub.org)
        barrier.wait()
        try:
            outcomes.append(release(repo, store, tag=TAG))
        except MregError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [outcome for outcome in outcomes if isinstance(outcome, MregError)]
    assert len(outcomes) == 2
    assert len(errors) < 2, errors
    assert all(error.hint for error in errors)
    assert release(repo, github, tag=TAG).changed is False
    require_whole(hub, repo)
    require_seen_whole(reader)


@pytest.mark.long
def test_twenty_kills_leave_what_the_next_run_completes(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    words = ["release", str(repo.root), "--tag", TAG, "--registry", f"github:{hub.org}"]
    chance, killed = random.Random(20), 0  # noqa: S311 - the same moments every time
    for _ in range(20):
        hub.repo(NAME)["releases"].clear()
        (hub.git(hub.repo(NAME)).path / "refs" / "tags" / TAG).unlink(missing_ok=True)
        hub.requests.clear()
        number, later = chance.randint(1, 11), chance.random() * 0.2
        process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(hub.requests) < number and process.poll() is None:
            time.sleep(0.005)
        time.sleep(later)
        process.kill()
        killed += process.wait() == -9
        assert release(repo, GitHubStore(hub.org), tag=TAG).published
        require_whole(hub, repo)
        whole = [r.path for r in hub.requests if r.method == "POST" and "/assets?" in r.path and r.status == 201]
        assert len(whole) == len({re.sub(r".*/assets", "", path) for path in whole}) == 3, whole
    assert killed >= 15


def test_neither_the_token_nor_a_signed_address_is_in_any_output_log_or_file(
    github, hub, hub_token, repo, mreg, tmp_path, caplog, monkeypatch
):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MREG_CACHE", str(tmp_path / "cache"))
    add_repo(github, tmp_path / "first-commit")
    place, ref, said = ["--registry", f"github:{hub.org}"], f"{NAME}@{TAG}", []
    commands = [
        ["release", repo.root, "--tag", TAG, *place],
        ["list", *place],
        ["show", ref, "--json", *place],
        ["fetch", ref, "--out", tmp_path / "out", *place],
        ["verify", ref, *place],
        ["diff", ref, ref, *place],
        ["sct", ref, *place],
        ["doctor", *place],
        ["mirror", ref, "--to", f"dir:{tmp_path / 'mirror'}", *place],
        ["yank", ref, "--reason", "canary", *place],
    ]
    leak = f"Authorization: Bearer {hub_token}"
    for number, words in enumerate(commands):
        hub.fault(".*", "", "status", status=(400, 403, 422)[number % 3], message=leak)
        hub.fault("GET", "/release-assets/", "status", status=403, message=leak, times=6)
        results = [mreg(*words)]  # a refusal that repeats the token
        hub.faults.clear()
        results.append(mreg(*words))
        said += [text for result in results for text in (result.stdout, result.stderr, repr(result.exception))]
    assert len(hub.repo(NAME)["releases"]) == 1
    folders = (repo.root, *(tmp_path / name for name in ("cache", "out", "mirror")))
    files = [f for folder in folders for f in folder.rglob("*")]
    assert [f for f in files if f.is_relative_to(tmp_path / "mirror") and f.suffix == ".zip"]
    said += [f.read_bytes().decode("latin-1") for f in files if f.is_file()]
    assert hub.count("GET", "/release-assets/") > 0
    for text in (*said, caplog.text):
        assert hub_token not in text
    assert not any("?sig=" in text for text in said)
