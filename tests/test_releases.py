"""mreg release: every step can be done again, nothing public is half or changes, nothing is written in a dry run."""

import datetime as dt
import json
import shutil

import pytest
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME
from releasing import ARCHIVE, drafts, published, snapshot, state

from registry import archive, notes, packaging, releases, workers
from registry.errors import ConflictError, MregError, NotFoundError, RegistryError
from registry.files import sha256
from registry.findings import Finding, Report
from registry.manifest import MANIFEST_NAME, parse
from registry.model_toml import find_repo
from registry.published import read_manifest
from registry.release_files import CHECKSUMS, Options
from registry.releases import release
from registry.runs import Run, read_run
from registry.stores.folder import FolderStore


@pytest.fixture(autouse=True)
def _as_told(request):
    """No waiting, and a machine without torch but for the tests that want it: that takes seconds."""
    request.getfixturevalue("no_waiting")
    if "with_torch" not in request.fixturenames:
        request.getfixturevalue("no_torch")


@pytest.fixture
def with_torch():
    """A machine with torch."""


@pytest.fixture
def repo(packed_repo):
    """A repo with a run, and its package of TAG in dist."""
    return packed_repo


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
