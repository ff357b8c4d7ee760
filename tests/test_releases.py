"""mreg release: every step can be done again, nothing public is half or changes, nothing is written in a dry run."""

import datetime as dt
import json
import shutil
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest
from command import COMMAND
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import archive, notes, packaging, read_back, releases, workers
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.files import sha256
from registry.findings import Finding, Report
from registry.manifest import MANIFEST_NAME, parse
from registry.model_toml import find_repo
from registry.published import read_manifest
from registry.release_files import CHECKSUMS, Options
from registry.release_plan import LocalAsset, make_plan, next_free_tag, require_tag
from registry.releases import release, release_path
from registry.runs import Run, read_run
from registry.stores import Asset, Release
from registry.stores.folder import FolderStore
from registry.stores.github import GitHubStore

ARCHIVE = f"{NAME}-{TAG}.zip"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(read_back, "WAITS", (0.0, 0.0))


@pytest.fixture(autouse=True)
def _no_torch(request, monkeypatch):
    """A machine where archives cannot be run, but for the tests that want it: that takes seconds."""
    if "with_torch" not in request.fixturenames:
        monkeypatch.setattr(workers, "installed", lambda: False)


@pytest.fixture
def with_torch():
    """A machine with torch."""


@pytest.fixture
def repo(repo_with_run, tiny_package):
    """A repo with a run, and its package of TAG in dist, which is newer."""
    dist = repo_with_run / "dist" / TAG
    dist.mkdir(parents=True)
    for file in tiny_package:
        shutil.copyfile(file, dist / file.name)
    return find_repo(repo_with_run)


def published(store, name=NAME):
    return [r for r in store.releases(name) if not r.draft]


def drafts(store):
    return [r for r in store.releases(NAME) if r.draft]


def state(store):
    """Everything that people can see of the releases, without the numbers that only say who came first."""
    return [
        (r.tag, r.draft, r.notes, r.title, sorted((a.name, a.size, a.sha256, a.uploaded) for a in r.assets))
        for r in store.releases(NAME)
    ]


def snapshot(folder: Path):
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in folder.rglob("*")
    }


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_release_has_archive_manifest_and_checksums_and_is_public(registry, repo, tiny_package):
    outcome = release(repo, registry, tag=TAG)
    (found,) = published(registry)
    assert (found.tag, found.title, outcome.published, outcome.changed) == (TAG, TAG, True, True)
    assert {a.name: a.sha256 for a in found.assets} == {
        file.name: sha256(file) for file in (*tiny_package, repo.dist / TAG / CHECKSUMS)
    }
    assert outcome.url == found.url
    assert (repo.dist / TAG / CHECKSUMS).read_text().splitlines()[0] == f"{sha256(tiny_package.archive)}  {ARCHIVE}"
    assert drafts(registry) == []


def test_what_is_missing_in_dist_is_built(registry, repo_with_run):
    repo = find_repo(repo_with_run)
    release(repo, registry, tag=TAG)
    (found,) = published(registry)
    with registry.open_asset(found, found.asset(MANIFEST_NAME)) as stream:
        manifest = parse(stream.read())
    assert manifest.sha256_of(ARCHIVE) == found.asset(ARCHIVE).sha256
    assert (repo.dist / TAG / ARCHIVE).is_file()


def test_a_second_release_of_the_same_bytes_writes_nothing(registry, repo, request):
    first = release(repo, registry, tag=TAG)
    before, files = state(registry), snapshot(repo.root)
    if registry.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        hub.requests.clear()
    again = release(repo, registry, tag=TAG)
    assert (again.url, again.assets, again.published, again.changed) == (first.url, first.assets, True, False)
    assert (state(registry), snapshot(repo.root)) == (before, files)
    if registry.location.startswith("github:"):
        assert hub.count("POST|PUT|PATCH|DELETE") == 0


def test_other_bytes_under_a_published_tag_are_refused_with_the_next_free_date(registry, repo, tmp_path):
    publish(registry, "r20260201", repo.dist / TAG / ARCHIVE)
    release(repo, registry, tag=TAG)
    before = state(registry)
    toml = repo.root / "model.toml"
    toml.write_text(toml.read_text().replace("Spinal cord", "The spinal cord"))
    with pytest.raises(ConflictError, match=rf"{TAG} is published with another {MANIFEST_NAME}") as caught:
        release(find_repo(repo.root), registry, tag=TAG)
    assert caught.value.hint == "release under the next free tag: mreg release --tag r20260202"
    assert state(registry) == before


def test_a_new_training_under_a_published_tag_is_offered_the_next_date_and_dist_stays(registry, repo):
    release(repo, registry, tag=TAG)
    before, dist = state(registry), snapshot(repo.dist)
    plans = next(repo.runs.iterdir()) / "plans.json"
    plans.write_text(plans.read_text().replace('"batch_size": 2', '"batch_size": 3'))
    with pytest.raises(ConflictError, match=f"published with another {ARCHIVE}") as caught:
        release(repo, registry, tag=TAG)
    assert "mreg release --tag r20260201" in caught.value.hint
    assert (state(registry), snapshot(repo.dist)) == (before, dist)
    assert release(repo, registry, tag="r20260201").published


def test_a_fresh_clone_finds_its_release_published(registry, repo):
    release(repo, registry, tag=TAG)
    shutil.rmtree(repo.dist)
    outcome = release(repo, registry, tag=TAG)
    assert (outcome.published, outcome.changed) == (True, False)
    assert not repo.dist.exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(registry, repo_with_run):
    before, files = state(registry), snapshot(repo_with_run)
    outcome = release(find_repo(repo_with_run), registry, tag=TAG, dry_run=True)
    assert (state(registry), snapshot(repo_with_run)) == (before, files)
    assert outcome.plan[0] == f"create a draft of {TAG}"
    assert outcome.plan[-1] == f"publish {TAG} as the newest release"
    assert [line.split(",")[0] for line in outcome.plan[1:-1]] == [
        f"upload {name}" for name in (ARCHIVE, MANIFEST_NAME, CHECKSUMS)
    ]
    assert (outcome.url, outcome.published, outcome.changed) == ("", False, False)
    assert [a.name for a in outcome.assets] == [ARCHIVE, MANIFEST_NAME, CHECKSUMS]


def test_a_draft_waits_and_the_next_call_publishes_it(registry, repo):
    outcome = release(repo, registry, tag=TAG, draft=True)
    (waiting,) = drafts(registry)
    assert (outcome.published, outcome.changed, published(registry)) == (False, True, [])
    assert release(repo, registry, tag=TAG, draft=True).changed is False
    assert release(repo, registry, tag=TAG).published
    (found,) = published(registry)
    assert {a.id for a in found.assets} == {a.id for a in waiting.assets}
    assert drafts(registry) == []


def test_an_older_tag_does_not_become_the_newest(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    newest = publish(github, "r20260202", repo.dist / TAG / ARCHIVE)
    outcome = release(repo, github, tag=TAG)
    assert outcome.plan[-1] == f"publish {TAG} as an older release, the newest stays"
    assert str(hub.repo(NAME)["latest"]) == newest.id


def test_the_tag_is_today_by_default(registry, repo_with_run):
    assert release(find_repo(repo_with_run), registry).tag == f"r{dt.date.today():%Y%m%d}"  # noqa: DTZ011


# --- drafts that somebody left ---------------------------------------------------------------------------------------


def test_a_draft_is_adopted_mended_and_of_several_the_first_is_kept(registry, repo, tmp_path):
    first = registry.create_draft(NAME, TAG, title=TAG, notes="What Ada wrote")
    registry.create_draft(NAME, TAG, title=TAG, notes="")
    wrong = tmp_path / ARCHIVE
    wrong.write_bytes(b"an earlier build")
    old, figure = tmp_path / f"{NAME}-old.zip", tmp_path / "figure.png"
    old.write_bytes(b"of another variant")
    figure.write_bytes(b"png")
    for file in (wrong, old, figure, repo.dist / TAG / MANIFEST_NAME):
        registry.upload(first, file)
    (kept,) = [a for a in drafts(registry)[0].assets if a.name == MANIFEST_NAME]
    release(repo, registry, tag=TAG)
    (found,) = published(registry)
    assert (found.id, drafts(registry)) == (first.id, [])
    assert {a.name for a in found.assets} == {ARCHIVE, MANIFEST_NAME, CHECKSUMS, "figure.png"}
    assert found.asset(MANIFEST_NAME).id == kept.id
    assert found.asset(ARCHIVE).sha256 == sha256(repo.dist / TAG / ARCHIVE)
    assert found.notes.startswith("What Ada wrote\n")


def test_what_people_wrote_in_another_draft_of_the_tag_stays(registry, repo, tmp_path, capsys):
    registry.create_draft(NAME, TAG, title=TAG, notes="")
    theirs = registry.create_draft(NAME, TAG, title="Plan", notes="What Bob wrote")
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    registry.upload(theirs, figure)
    assert any("not mreg's" in line for line in release(repo, registry, tag=TAG, dry_run=True).plan)
    release(repo, registry, tag=TAG)
    (kept,) = drafts(registry)
    assert (kept.id, kept.notes, [a.name for a in kept.assets]) == (theirs.id, "What Bob wrote", ["figure.png"])
    assert "not mreg's" in capsys.readouterr().err


def test_what_vouches_for_replaced_files_goes_with_them(registry, repo, tmp_path):
    draft = registry.create_draft(NAME, TAG, title=TAG, notes="")
    files = {ARCHIVE: b"an earlier build", MANIFEST_NAME: b"{}"}
    for name, data in (files | {f"{ARCHIVE}.sigstore.json": b"{}", f"{MANIFEST_NAME}.sig": b"signature"}).items():
        (tmp_path / name).write_bytes(data)
        registry.upload(draft, tmp_path / name)
    release(repo, registry, tag=TAG)
    assert {a.name for a in published(registry)[0].assets} == {ARCHIVE, MANIFEST_NAME, CHECKSUMS}


def test_an_attestation_stays_while_its_archive_stays(registry, repo, tmp_path):
    draft = registry.create_draft(NAME, TAG, title=TAG, notes="")
    bundle = tmp_path / f"{ARCHIVE}.sigstore.json"
    bundle.write_bytes(b"{}")
    for file in (repo.dist / TAG / ARCHIVE, bundle):
        registry.upload(draft, file)
    release(repo, registry, tag=TAG)
    assert {a.name for a in published(registry)[0].assets} == {ARCHIVE, bundle.name, MANIFEST_NAME, CHECKSUMS}


def test_a_draft_from_before_the_last_push_is_made_anew(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    stale = github.create_draft(NAME, TAG, title=TAG, notes="What Ada wrote")
    record = hub.repo(NAME)
    git, who = hub.git(record), {"name": "Ada", "email": "a@example.org", "date": "2026-02-01T12:00:00Z"}
    head = hub.head(NAME)[0]
    git.set_ref("refs/heads/main", git.write_commit(head["tree"], [head["sha"]], "Second\n", who, who))
    release(repo, github, tag=TAG)
    (found,) = published(github)
    assert found.id != stale.id
    assert found.commit == hub.head(NAME)[0]["sha"]
    assert found.notes.startswith("What Ada wrote\n")


def test_a_broken_upload_is_deleted_and_sent_again(github, hub, repo, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    hub.fault("POST", r"/assets\?", "status", times=99, status=502, starter=True)
    with pytest.raises(RegistryError):
        release(repo, github, tag=TAG)
    assert published(github) == []
    hub.faults.clear()
    release(repo, github, tag=TAG)
    assert all(a.uploaded for a in published(github)[0].assets)
    assert len(published(github)[0].assets) == 3


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


# --- interruptions ---------------------------------------------------------------------------------------------------

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
    from registry.stores.folder import FolderStore

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


# --- what is released ------------------------------------------------------------------------------------------------


def test_errors_of_the_check_stop_before_anything_is_written(registry, repo, monkeypatch, capsys):
    found = Finding(code="REPO001", message="no licence", path="LICENSE")
    monkeypatch.setattr(releases, "check", lambda target: Report(target=str(target), findings=(found,)))
    with pytest.raises(MregError, match="1 error, nothing was released"):
        release(repo, registry, tag=TAG)
    assert "REPO001 LICENSE: no licence" in capsys.readouterr().err
    assert registry.releases(NAME) == []


def test_a_package_is_released_as_it_was_made_by_hand(registry, repo_with_run):
    repo, run = find_repo(repo_with_run), read_run(next((repo_with_run / "runs").iterdir()))
    made = archive.build(run, NAME, TAG, repo.dist / TAG, half=True, layout="dataset", repo=repo)
    release(repo, registry, tag=TAG)
    assert published(registry)[0].asset(ARCHIVE).sha256 == made.sha256
    with pytest.raises(ConflictError, match=f"published with another {ARCHIVE}"):
        release(repo, registry, tag=TAG, options=Options(layout="root"))


def test_what_the_release_packs_has_a_reference_output_and_a_published_one_stays(
    repo_with_run, with_torch, monkeypatch, tmp_path
):
    repo, registry = find_repo(repo_with_run), FolderStore(tmp_path / "registry")
    registry.root.mkdir()
    add_repo(registry, tmp_path / "first-commit")
    release(repo, registry, tag=TAG)
    (found,) = published(registry)
    reference = read_manifest(registry, found).models[0].reference
    assert reference.image.kind == "mni152"
    shutil.rmtree(repo.dist)
    monkeypatch.setattr(workers, "installed", lambda: False)  # another machine, which could not run it
    assert release(repo, registry, tag=TAG).changed is False
    release(repo, registry, tag="r20260301")
    newest = registry.releases(NAME)[0]
    assert read_manifest(registry, newest).models[0].reference is None


@pytest.mark.parametrize(
    ("plans", "runs"), [("ClassificationPlans", True), ("LesionPlans", True), ("nnsslPlans", False)]
)
def test_every_model_has_a_reference_but_an_encoder(tmp_path, with_torch, plans, runs):
    (tmp_path / "plans.json").write_text(json.dumps({"plans_name": plans}))
    assert (packaging.reference_of(Run(tmp_path, {}), tmp_path) is not None) == runs


def test_a_release_is_compared_with_the_one_before(registry, repo_with_run):
    repo = find_repo(repo_with_run)
    release(repo, registry, tag=TAG)
    dataset = next(repo.runs.iterdir()) / "dataset.json"
    dataset.write_text(dataset.read_text().replace('"RPI"', '"LPI"'))
    with pytest.raises(MregError, match="1 error, nothing was released"):
        release(repo, registry, tag="r20260301")
    assert [r.tag for r in registry.releases(NAME)] == [TAG]
    release(repo, registry, tag="r20260101")  # there is none before it


def test_a_package_older_than_its_run_is_not_released(registry, repo):
    run = next(repo.runs.iterdir())
    plans = run / "plans.json"
    plans.write_text(plans.read_text().replace('"batch_size": 2', '"batch_size": 3'))
    with pytest.raises(ConflictError, match="made from something else"):
        release(repo, registry, tag=TAG)
    assert registry.releases(NAME) == []


def test_two_archives_go_into_one_release(registry, repo):
    run = read_run(next(repo.runs.iterdir()))
    archive.build(run, NAME, TAG, repo.dist / TAG, variant="half", half=True, repo=repo)
    release(repo, registry, tag=TAG)
    (found,) = published(registry)
    assert {a.name for a in found.assets} == {ARCHIVE, f"{NAME}-half-{TAG}.zip", MANIFEST_NAME, CHECKSUMS}
    assert f"--asset {NAME}-half-{TAG}.zip" in found.notes


def test_the_notes_say_what_it_is_and_how_to_install_it(registry, repo):
    toml = repo.root / "model.toml"
    toml.write_text(toml.read_text() + '\n[sct]\ntask = "sc_t2"\n')
    for file in (repo.dist / TAG).iterdir():
        file.touch()
    release(find_repo(repo.root), registry, tag=TAG)
    (found,) = published(registry)
    for text in (
        "Spinal cord on T2-weighted MRI",
        "| **labels** | sc = 1 |",
        "| **orientation** | RPI (SCT; nibabel LAS) |",
        f"mreg fetch {NAME}@{TAG}",
        f"`{found.asset(ARCHIVE).sha256}`",
        "| sc | 0.900 | 1.00 | 0.910 | 0.890 | -2.0 |",
    ):
        assert text in found.notes
    install = f"sct_deepseg sc_t2 -install -custom-url {found.asset(ARCHIVE).url}"
    assert (install in found.notes) == registry.location.startswith("github:")
    assert str(repo.root.parent) not in found.notes
    block = notes.parse_block(found.notes)
    assert (block.archive, block.orientation, block.labels, block.yanked) == (ARCHIVE, "RPI", ("sc",), "")


def test_a_repository_that_is_not_there_or_archived_is_one_error(store, hub, repo, tmp_path):
    with pytest.raises(NotFoundError):
        release(repo, store, tag=TAG)
    if store.location.startswith("github:"):
        hub.add_repo(NAME, files={"README.md": b"x"}, archived=True)
        with pytest.raises(ConflictError, match="archived"):
            release(repo, store, tag=TAG)


def test_a_private_release_is_published_with_a_warning(github, hub, repo, capsys):
    hub.add_repo(NAME, files={"README.md": b"x"}, private=True)
    assert release(repo, github, tag=TAG).published
    assert "cannot be read without a token" in capsys.readouterr().err


# --- tags and plans --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.dates(dt.date(2010, 1, 1), dt.date(2098, 1, 1)), st.sets(st.integers(0, 5)))
def test_the_next_free_date_is_later_and_free(day, offsets):
    taken = {f"r{day + dt.timedelta(days=n):%Y%m%d}" for n in offsets}
    free = next_free_tag(f"r{day:%Y%m%d}", taken)
    assert free not in taken
    assert free > f"r{day:%Y%m%d}"
    require_tag(free, "date")


def test_versions_are_tags_where_the_repo_says_so():
    assert next_free_tag("v1.2.3", ["v1.2.4"]) == "v1.2.5"
    require_tag("v1.2.3", "semver")
    with pytest.raises(MregError, match="a version"):
        require_tag(TAG, "semver")
    with pytest.raises(MregError, match="not a calendar date"):
        require_tag("r20260230", "date")
    with pytest.raises(MregError, match="a release tag is"):
        require_tag("v1.0.0", "date")


SHA = st.sampled_from(["a" * 64, "b" * 64, ""])
ASSETS = st.lists(
    st.builds(
        Asset,
        id=st.just("1"),
        name=st.sampled_from([ARCHIVE, MANIFEST_NAME, "figure.png"]),
        size=st.just(5),
        sha256=SHA,
        url=st.just(""),
        uploaded=st.booleans(),
    ),
    unique_by=lambda a: a.name,
)
STATES = st.lists(
    st.builds(
        Release,
        id=st.integers(1, 99).map(str),
        repo=st.just(NAME),
        tag=st.sampled_from([TAG, "r20260202", "r20251231"]),
        title=st.just(""),
        notes=st.just(""),
        draft=st.just(True) | st.booleans(),
        commit=st.sampled_from(["", "c1", "c2"]),
        assets=ASSETS.map(tuple),
    ),
    max_size=4,
    unique_by=lambda r: r.id,
)


@settings(max_examples=300, deadline=None)
@given(STATES)
def test_a_plan_once_carried_out_leaves_nothing_to_do(found):
    wanted = [LocalAsset(path=Path(name), size=5, sha256="a" * 64) for name in (ARCHIVE, MANIFEST_NAME)]
    public = [r for r in found if r.tag == TAG and not r.draft]
    try:
        plan = make_plan(TAG, "c1", wanted, found)
    except ConflictError:
        assert public
        assert any(not local.equals(public[0].asset(local.name)) for local in wanted)
        return
    if plan.published:
        assert plan.published in public
        return
    kept = [a for a in (plan.draft.assets if plan.draft else ()) if a not in plan.broken]
    sent = [Asset(id="9", name=f.name, size=f.size, sha256=f.sha256, url="") for f in plan.missing]
    draft = Release(
        id=plan.draft.id if plan.draft else "100",
        repo=NAME,
        tag=TAG,
        title="",
        notes="",
        draft=True,
        commit="c1",
        assets=(*kept, *sent),
    )
    rest = [r for r in found if r not in plan.surplus and r is not plan.draft]
    again = make_plan(TAG, "c1", wanted, [*rest, draft])
    assert (again.draft, again.surplus, again.broken, again.missing) == (draft, (), (), ())
    public_now = Release(**{**vars(draft), "draft": False})
    assert make_plan(TAG, "c1", wanted, [*rest, public_now]).published == public_now


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_the_address_of_the_release(registry, repo, mreg):
    result = mreg("release", repo.root, "--tag", TAG, "--registry", registry.location)
    assert result.exit_code == 0
    assert result.stdout == published(registry)[0].url + "\n"


def test_the_command_prints_one_document(registry, repo, mreg):
    result = mreg("release", repo.root, "--tag", TAG, "--json", "--registry", registry.location)
    document = json.loads(result.stdout)
    assert set(document) == {"tag", "url", "assets", "published", "changed"}
    assert (document["tag"], document["published"], document["changed"]) == (TAG, True, True)
    assert [set(asset) for asset in document["assets"]] == [{"name", "size", "sha256", "url"}] * 3
    assert document["assets"][0]["sha256"] == sha256(repo.dist / TAG / ARCHIVE)


def test_the_command_tells_the_plan_of_a_dry_run(registry, repo, mreg):
    result = mreg("release", repo.root, "--tag", TAG, "--dry-run", "--registry", registry.location)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"create a draft of {TAG}"
    assert registry.releases(NAME) == []


def test_the_command_takes_a_run(registry, repo, mreg):
    run = next(repo.runs.iterdir())
    for words in ([run], [repo.root, "--run", run.name]):
        result = mreg("release", *words, "--tag", TAG, "--dry-run", "--json", "--registry", registry.location)
        assert json.loads(result.stdout)["assets"][0]["name"] == ARCHIVE


def test_publishing_with_actions_is_refused_before_anything_is_written_where_there_is_no_workflow(registry, repo, mreg):
    result = mreg("release", repo.root, "--publish-with", "actions", "--registry", registry.location)
    assert result.exit_code == 1
    assert "with Actions: " in result.stderr
    assert "--publish-with direct" in result.stderr
    assert registry.releases(NAME) == []


def test_without_a_token_the_command_says_how_to_get_one(github, hub, repo, mreg, monkeypatch, tmp_path):
    add_repo(github, tmp_path / "first-commit")
    monkeypatch.delenv("GITHUB_TOKEN")
    result = mreg("release", repo.root, "--tag", TAG, "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert "no GitHub token" in result.stderr
    assert "export GITHUB_TOKEN" in result.stderr
    assert hub.count("POST", "/releases") == 0


@pytest.mark.parametrize(
    ("token", "permissions", "words"),
    [
        ("wrong", None, ("401", "wrong or has expired")),
        ("weak", ("issues",), ("403", "permission")),
    ],
)
def test_a_token_that_may_not_is_one_error(github, hub, repo, mreg, monkeypatch, tmp_path, token, permissions, words):
    add_repo(github, tmp_path / "first-commit")
    if permissions:
        hub.add_token(token, can=permissions)
    monkeypatch.setenv("GITHUB_TOKEN", token)
    result = mreg("release", repo.root, "--tag", TAG, "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert all(word in result.stderr for word in words)
    assert github.releases(NAME) == []


@pytest.mark.parametrize(("status", "word"), [(404, "is the name right"), (422, "422")])
def test_an_answer_of_the_server_is_one_error(github, hub, repo, mreg, tmp_path, status, word):
    add_repo(github, tmp_path / "first-commit")
    hub.fault("POST", "/releases$", "status", times=99, status=status, message="Sorry")
    result = mreg("release", repo.root, "--tag", TAG, "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert word in result.stderr
    assert github.releases(NAME) == []


def test_an_archive_that_is_no_zip_is_built_again_or_refused(registry, repo, mreg):
    (repo.dist / TAG / ARCHIVE).write_bytes(b"not a zip")
    result = mreg("release", repo.root, "--tag", TAG, "--registry", registry.location)
    assert result.exit_code == 1
    assert "made from something else" in result.stderr
    (repo.dist / TAG / ARCHIVE).unlink()
    assert mreg("release", repo.root, "--tag", TAG, "--registry", registry.location).exit_code == 0
    assert zipfile.is_zipfile(repo.dist / TAG / ARCHIVE)


def test_a_folder_outside_a_repo_is_one_error(registry, mreg, tmp_path):
    (tmp_path / "empty").mkdir()
    result = mreg("release", tmp_path / "empty", "--registry", registry.location)
    assert result.exit_code == 1
    assert "no model.toml here or above" in result.stderr


def test_release_path_is_what_programs_call(registry, repo):
    assert release_path(repo.root, registry.location, tag=TAG, draft=True).published is False
    with pytest.raises(NotFoundError):
        release_path(repo.root, registry.location, tag=TAG, run=Path("no-such-run"))
