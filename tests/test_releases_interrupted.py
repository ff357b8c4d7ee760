"""mreg release, killed at any step, over a network that stutters, or beside somebody else: the end is the same."""

import subprocess
import threading
import time

import pytest
from command import COMMAND
from fixtures_release import TAG, add_repo
from fixtures_stores import NAME
from releasing import ARCHIVE, drafts, published, state

from registry.errors import ConflictError, IntegrityError
from registry.manifest import MANIFEST_NAME
from registry.release_files import CHECKSUMS
from registry.releases import release
from registry.stores import Asset, Release
from registry.stores.folder import FolderStore
from registry.stores.github import GitHubStore

pytestmark = pytest.mark.usefixtures("no_waiting", "no_torch")


@pytest.fixture
def repo(packed_repo):
    """A repo with a run, and its package of TAG in dist."""
    return packed_repo


WRITES = ("create_draft", "set_notes", "upload", "delete_asset", "delete_draft", "publish")


class Killed(BaseException):
    """What a kill looks like from inside."""


class Proxy:
    """A store with something between it and its caller."""

    def __init__(self, store):
        self.store, self.location = store, store.location

    def __getattr__(self, name):
        return getattr(self.store, name)


class Deadly(Proxy):
    """A store whose `number`-th write kills the program, before or after it is done."""

    def __init__(self, store, number, *, after):
        super().__init__(store)
        self.left, self.after, self.died = number, after, False
        self.lock = threading.Lock()

    def __getattr__(self, name):
        method = getattr(self.store, name)
        if name not in WRITES:
            return method

        def call(*args, **kwargs):
            with self.lock:  # uploads run at once; here one after the other, and none after the kill
                if self.died:
                    raise Killed
                self.left -= 1
                self.died = self.left == 0
                if self.died and not self.after:
                    raise Killed
                result = method(*args, **kwargs)
                if self.died:
                    raise Killed
                return result

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_release_killed_at_any_step_ends_in_the_same_state(registry, repo, tmp_path, number, after):
    deadly = Deadly(registry, number, after=after)
    with pytest.raises(Killed):
        release(repo, deadly, tag=TAG)
    done = number == 5 and after
    assert [r.tag for r in published(registry)] == ([TAG] if done else [])
    outcome = release(repo, registry, tag=TAG)
    assert (outcome.published, outcome.changed) == (True, not done)

    clean = FolderStore(tmp_path / "clean")
    add_repo(clean, tmp_path / "clean-commit")
    release(repo, clean, tag=TAG)
    assert [s[4] for s in state(registry)] == [s[4] for s in state(clean)]
    assert drafts(registry) == []


def test_those_are_all_writes_of_a_release(registry, repo):
    deadly = Deadly(registry, 6, after=False)
    assert release(repo, deadly, tag=TAG).published
    assert deadly.left == 1


def test_a_process_killed_during_an_upload_leaves_a_draft_that_the_next_one_publishes(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    hub.fault("POST", r"/assets\?", "latency", seconds=2.0)
    words = ["release", str(repo.root), "--tag", TAG, "--registry", "github:ivadomed"]
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL)
    while hub.count("POST", r"/assets\?") == 0:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (published(github), len(drafts(github))) == ([], 1)
    assert release(repo, github, tag=TAG).published
    assert {a.name for a in published(github)[0].assets} == {ARCHIVE, MANIFEST_NAME, CHECKSUMS}
    assert drafts(github) == []


REQUESTS = [
    ("GET", "/repos/"), ("GET", "/releases"), ("POST", "/releases$"), ("POST", r"/assets\?"), ("PATCH", "/releases/"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        *((*request, kind) for request in REQUESTS for kind in ("status", "late", "lost", "reset", "limit")),
        *(("HEAD", "", kind) for kind in ("status", "lost", "reset")),
    ],
)
def test_a_fault_of_the_network_is_outlived(github, hub, repo, tmp_path, method, path, kind):
    add_repo(github, tmp_path / "first-commit")
    hub.fault(method, path, kind, times=1)
    assert release(repo, github, tag=TAG).published
    assert not any(fault.times for fault in hub.faults)
    assert len(published(github)) == 1
    assert len(published(github)[0].assets) == 3
    assert drafts(github) == []


def test_bytes_that_arrive_changed_are_never_published(registry, repo):
    class Noise(Proxy):
        def upload(self, draft, path, progress=None, **known):
            made = self.store.upload(draft, path, progress, **known)
            return Asset(**{**vars(made), "sha256": "ab" * 32})

    with pytest.raises(IntegrityError, match="arrived 3 times with other bytes"):
        release(repo, Noise(registry), tag=TAG)
    assert published(registry) == []
    assert release(repo, registry, tag=TAG).published


def test_a_registry_that_computes_no_digest_is_read_back(registry, repo):
    class Old(Proxy):
        def releases(self, name):
            return [_without_digests(r) for r in self.store.releases(name)]

        def upload(self, draft, path, progress=None, **known):
            made = self.store.upload(draft, path, progress, **known)
            return Asset(**{**vars(made), "sha256": ""})

    assert release(repo, Old(registry), tag=TAG).published
    assert release(repo, Old(registry), tag=TAG).changed is False


def _without_digests(found):
    assets = tuple(Asset(**{**vars(a), "sha256": ""}) for a in found.assets)
    return Release(**{**vars(found), "assets": assets})


def test_a_list_that_lags_behind_is_waited_for(registry, repo):
    class Lag(Proxy):
        misses = 2

        def releases(self, name):
            found = self.store.releases(name)
            if found and self.misses:
                self.misses -= 1
                return []
            return found

    assert release(repo, Lag(registry), tag=TAG).published


def test_a_release_of_three_assets_needs_at_most_15_requests(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    hub.requests.clear()
    assert len(release(repo, GitHubStore(hub.org), tag=TAG).assets) == 3
    asked = [f"{r.method} {r.path.partition('?')[0]}" for r in hub.requests if r.path.startswith("/repos/")]
    assert len(asked) <= 11, asked


# --- beside somebody else ---------------------------------------------------------------------------------------------


def test_somebody_who_releases_at_the_same_moment_wins_once(registry, repo):
    class Rival(Proxy):
        def create_draft(self, *args, **kwargs):
            self.store.create_draft(*args, **kwargs)
            return self.store.create_draft(*args, **kwargs)

    with pytest.raises(ConflictError, match="somebody else is releasing"):
        release(repo, Rival(registry), tag=TAG)
    assert (len(drafts(registry)), published(registry)) == (1, [])
    assert release(repo, registry, tag=TAG).published


def test_who_publishes_last_says_that_somebody_was_faster(registry, repo, tmp_path):
    class Slow(Proxy):
        def publish(self, draft, *, latest):
            rival = self.store.create_draft(NAME, TAG, title=TAG, notes="")
            self.store.publish(rival, latest=True)
            return self.store.publish(draft, latest=latest)

    with pytest.raises(ConflictError, match="somebody else has published"):
        release(repo, Slow(registry), tag=TAG)
    assert (len(published(registry)), drafts(registry)) == (1, [])
