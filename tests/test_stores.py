"""One suite for both kinds of registry: whatever mreg does with one, it can do with the other."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures_stores import NAME, git, new_worktree
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.stores import Release, open_store
from registry.stores.contract import newest_first


@pytest.fixture
def filled(store, worktree):
    """A registry with one repository and its first commit."""
    store.create_repo(NAME, description="Spinal cord on T2w", topics=("mri", "spinal-cord"))
    store.push_first_commit(NAME, worktree)
    return store


@pytest.fixture
def archive(tmp_path):
    """A file to release."""
    path = tmp_path / f"{NAME}-r20260131.zip"
    path.write_bytes(os.urandom(300_000))
    return path


def draft_of(store, tag="r20260131"):
    return store.create_draft(NAME, tag, title=f"Release {tag}", notes="What is new")


def listed(store, release):
    return next((r for r in store.releases(NAME) if r.id == release.id), None)


def read(store, release, asset, offset=0):
    with store.open_asset(release, asset, offset) as stream:
        return stream.read()


# --- repositories ----------------------------------------------------------------------------------------------------


def test_a_created_repo_is_listed_with_what_it_was_given(store):
    made = store.create_repo(NAME, description="Spinal cord\n  on T2w", topics=("spinal-cord", "mri"))
    assert (made.name, made.description, made.topics) == (NAME, "Spinal cord on T2w", ("mri", "spinal-cord"))
    assert made.commit == ""
    assert store.repo(NAME) == made
    assert list(store.repos()) == [made]


def test_creating_a_repo_again_changes_nothing(store, request, tmp_path):
    first = store.create_repo(NAME, description="Cord", topics=("mri",))
    if store.location.startswith("dir:"):
        before = (tmp_path / "registry" / NAME / "repo.json").stat().st_mtime_ns
        assert store.create_repo(NAME, description="Cord", topics=("mri",)) == first
        assert (tmp_path / "registry" / NAME / "repo.json").stat().st_mtime_ns == before
    else:
        hub = request.getfixturevalue("hub")
        hub.requests.clear()
        assert store.create_repo(NAME, description="Cord", topics=("mri",)) == first
        assert hub.count("POST|PUT|PATCH|DELETE") == 0


def test_a_half_made_repo_is_completed_and_keeps_what_people_wrote(store):
    store.create_repo(NAME, description="", topics=("by-hand",))
    assert store.create_repo(NAME, description="Cord", topics=("mri",)).description == "Cord"
    again = store.create_repo(NAME, description="Another text", topics=("mri",))
    assert (again.description, again.topics) == ("Cord", ("by-hand", "mri"))


def test_repos_are_sorted_by_name(store):
    for name in ("model_seg_sc_t2", "model_seg_gm_t2s", "model_seg_sc_t1"):
        store.create_repo(name, description="", topics=())
    assert [r.name for r in store.repos()] == ["model_seg_gm_t2s", "model_seg_sc_t1", "model_seg_sc_t2"]


def test_a_missing_repo_is_named(store):
    for call in (store.repo, store.releases, lambda name: store.read_file(name, "README.md")):
        with pytest.raises(NotFoundError, match="model_seg_nothing"):
            call("model_seg_nothing")


@pytest.mark.parametrize("name", ["../other", "a/b", ".hidden", "", "a" * 101, "x.git"])
def test_a_name_that_leads_elsewhere_is_refused(store, name):
    with pytest.raises(MregError, match="cannot be the name"):
        store.create_repo(name, description="", topics=())


@pytest.mark.parametrize(("description", "topics"), [("x" * 351, ()), ("", ("Not A Topic",))])
def test_what_github_would_refuse_is_refused_before_anything_is_made(store, description, topics):
    with pytest.raises(MregError, match=NAME):
        store.create_repo(NAME, description=description, topics=topics)
    assert list(store.repos()) == []


# --- the first commit ------------------------------------------------------------------------------------------------


def test_the_first_commit_arrives_whole_and_under_its_own_name(store, worktree):
    store.create_repo(NAME, description="", topics=())
    pushed = store.push_first_commit(NAME, worktree)
    assert pushed.commit == git(worktree, "rev-parse", "HEAD") == store.repo(NAME).commit
    for path in ("README.md", "figures/t2.png", "empty.txt", "docs/Übersicht 1.md", ".github/workflows/check.yml"):
        assert store.read_file(NAME, path) == (worktree / path).read_bytes()


def test_only_the_first_commit_is_pushed_and_pushing_again_does_nothing(store, worktree):
    store.create_repo(NAME, description="", topics=())
    first = store.push_first_commit(NAME, worktree)
    (worktree / "README.md").write_text("changed\n")
    git(worktree, "commit", "--quiet", "--all", "--message", "Second")
    assert store.push_first_commit(NAME, worktree) == first
    assert store.read_file(NAME, "README.md") == "# Modèle\n".encode()


def test_another_working_copy_is_a_conflict_and_the_files_stay(filled, tmp_path):
    (tmp_path / "other").mkdir()
    other = new_worktree(tmp_path / "other", {"README.md": b"other\n"})
    with pytest.raises(ConflictError, match=NAME):
        filled.push_first_commit(NAME, other)
    assert filled.read_file(NAME, "README.md") == "# Modèle\n".encode()


def test_nothing_can_be_pushed_into_a_repo_that_is_not_there(store, worktree):
    with pytest.raises(NotFoundError, match=NAME):
        store.push_first_commit(NAME, worktree)
    assert list(store.repos()) == []


def test_a_folder_without_a_commit_of_its_own_is_an_error_with_the_way_out(store, worktree, tmp_path):
    store.create_repo(NAME, description="", topics=())
    (tmp_path / "plain").mkdir()
    inside = worktree / "docs"
    for folder in (tmp_path / "plain", inside):
        with pytest.raises(NotFoundError) as error:
            store.push_first_commit(NAME, folder)
        assert str(folder) in error.value.message
        assert "git" in error.value.hint


@pytest.mark.parametrize("path", ["nothing.md", "docs", "../repo.json", "../../x", ""])
def test_a_path_that_is_no_file_of_the_repo_is_not_found(filled, path):
    with pytest.raises(NotFoundError):
        filled.read_file(NAME, path)


# --- drafts and assets -----------------------------------------------------------------------------------------------


def test_an_empty_repo_cannot_have_a_release(store):
    store.create_repo(NAME, description="", topics=())
    with pytest.raises(ConflictError, match="empty"):
        draft_of(store)


def test_a_draft_stands_on_the_head_and_is_not_public(filled):
    draft = draft_of(filled)
    assert (draft.repo, draft.tag, draft.title, draft.notes) == (NAME, "r20260131", "Release r20260131", "What is new")
    assert draft.draft
    assert draft.published_at == ""
    assert draft.commit == filled.repo(NAME).commit
    assert filled.releases(NAME) == [draft]


def test_two_drafts_may_wait_for_one_tag_and_the_older_comes_first(filled):
    first, second = draft_of(filled), draft_of(filled)
    assert first.id != second.id
    assert [r.id for r in filled.releases(NAME)] == [first.id, second.id]


def test_an_upload_is_counted_hashed_and_listed(filled, archive):
    from registry.files import sha256

    counts = []
    draft = draft_of(filled)
    asset = filled.upload(draft, archive, counts.append)
    assert (asset.name, asset.size, asset.sha256) == (archive.name, 300_000, sha256(archive))
    assert sum(counts) == asset.size
    assert listed(filled, draft).assets == (asset,)
    assert read(filled, draft, asset) == archive.read_bytes()


def test_a_second_asset_of_one_name_is_refused_and_the_first_stays(filled, archive):
    draft = draft_of(filled)
    asset = filled.upload(draft, archive)
    archive.write_bytes(b"other")
    with pytest.raises(ConflictError, match=archive.name):
        filled.upload(draft, archive)
    assert listed(filled, draft).assets == (asset,)


def test_a_deleted_asset_makes_room_and_deleting_twice_is_no_error(filled, archive):
    draft = draft_of(filled)
    asset = filled.upload(draft, archive)
    filled.delete_asset(draft, asset)
    filled.delete_asset(draft, asset)
    assert listed(filled, draft).assets == ()
    archive.write_bytes(b"other")
    assert filled.upload(draft, archive).size == 5


def test_an_interrupted_upload_leaves_nothing_in_the_way(filled, archive):
    def interrupt(count):
        raise KeyboardInterrupt

    draft = draft_of(filled)
    with pytest.raises(KeyboardInterrupt):
        filled.upload(draft, archive, interrupt)
    assert listed(filled, draft).asset(archive.name) is None
    assert filled.upload(draft, archive).size == 300_000
    assert [a.uploaded for a in listed(filled, draft).assets] == [True]


@pytest.mark.parametrize(
    ("name", "size"), [("model 1.zip", 3), (".hidden.zip", 3), ("a..zip", 3), ("modèle.zip", 3), ("a.zip", 0)]
)
def test_a_file_that_github_would_rename_or_refuse_is_no_asset(filled, tmp_path, name, size):
    (tmp_path / name).write_bytes(b"x" * size)
    with pytest.raises(MregError, match="asset"):
        filled.upload(draft_of(filled), tmp_path / name)


def test_a_file_of_two_gigabytes_is_refused_before_it_is_sent(filled, tmp_path):
    with (tmp_path / "big.zip").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(MregError, match="2 GiB"):
        filled.upload(draft_of(filled), tmp_path / "big.zip")


@pytest.mark.parametrize("tag", ["", "r2026 01", "../r1", "a/b", "-x", "a..b", "r1.lock", "r~1"])
def test_a_tag_that_git_or_a_folder_cannot_take_is_refused(filled, tag):
    with pytest.raises(MregError, match="cannot be a release tag"):
        draft_of(filled, tag)


def test_a_deleted_draft_is_gone_with_its_assets(filled, archive):
    draft = draft_of(filled)
    filled.upload(draft, archive)
    filled.delete_draft(draft)
    assert filled.releases(NAME) == []
    with pytest.raises(NotFoundError, match="r20260131"):
        filled.delete_draft(draft)
    with pytest.raises(NotFoundError, match="r20260131"):
        filled.upload(draft, archive)


# --- publication -----------------------------------------------------------------------------------------------------


def test_a_published_release_keeps_its_assets_and_publishing_again_is_the_same(filled, archive):
    draft = draft_of(filled)
    asset = filled.upload(draft, archive)
    public = filled.publish(draft, latest=True)
    assert not public.draft
    assert public.published_at.endswith("Z")
    assert (public.id, public.tag, public.notes) == (draft.id, draft.tag, draft.notes)
    assert public.assets[0].sha256 == asset.sha256
    assert public.assets[0].url != asset.url
    assert filled.publish(draft, latest=True) == public == filled.publish(public, latest=True)
    assert filled.releases(NAME) == [public]


def test_a_tag_is_published_once(filled):
    first, second = draft_of(filled), draft_of(filled)
    filled.publish(first, latest=True)
    with pytest.raises(ConflictError, match="r20260131"):
        filled.publish(second, latest=True)
    assert [r.draft for r in filled.releases(NAME)] == [False, True]


def test_a_public_release_is_never_changed_but_for_its_notes(filled, archive, tmp_path):
    draft = draft_of(filled)
    asset = filled.upload(draft, archive)
    public = filled.publish(draft, latest=True)
    (tmp_path / "more.zip").write_bytes(b"more")
    for change in (
        lambda: filled.upload(public, tmp_path / "more.zip"),
        lambda: filled.upload(draft, archive),
        lambda: filled.delete_asset(public, asset),
        lambda: filled.delete_draft(public),
    ):
        with pytest.raises(ConflictError, match="is public"):
            change()
    noted = filled.set_notes(public, "yanked")
    assert noted.notes == "yanked"
    assert filled.releases(NAME) == [noted]
    assert read(filled, noted, noted.assets[0]) == archive.read_bytes()


def test_a_draft_keeps_its_tag_when_its_notes_change(filled):
    draft = filled.set_notes(draft_of(filled), "other")
    assert (draft.tag, draft.notes, draft.draft) == ("r20260131", "other", True)
    assert filled.publish(draft, latest=False).tag == "r20260131"


def test_assets_open_at_any_byte_of_theirs(filled, archive):
    draft = draft_of(filled)
    asset = filled.upload(draft, archive)
    public, data = filled.publish(draft, latest=True), archive.read_bytes()
    for offset in (0, 1, 299_999, 300_000):
        assert read(filled, public, public.assets[0], offset) == data[offset:]
    with pytest.raises(IntegrityError, match="300001"):
        filled.open_asset(public, asset, 300_001)


def test_releases_come_newest_tag_first(filled):
    for tag in ("v0.9", "r20260131", "v0.10", "r20251231"):
        filled.publish(draft_of(filled, tag), latest=False)
    assert [r.tag for r in filled.releases(NAME)] == ["r20260131", "r20251231", "v0.10", "v0.9"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dates(), min_size=1, max_size=6), st.randoms())
def test_dated_tags_sort_by_date_in_whatever_order_they_come(dates, random):
    tags = [f"r{date:%Y%m%d}" for date in dates if date.year >= 1000]
    random.shuffle(tags)
    releases = [Release(id=str(n), repo=NAME, tag=tag, title="", notes="", draft=False) for n, tag in enumerate(tags)]
    assert [r.tag for r in newest_first(releases)] == sorted(tags, reverse=True)


# --- locations -------------------------------------------------------------------------------------------------------


def test_a_location_opens_its_kind_of_registry(tmp_path, hub):
    assert open_store(f"dir:{tmp_path}").location == f"dir:{tmp_path}"
    assert open_store("github:ivadomed").location == "github:ivadomed"
    for wrong in ("github:", "dir:", "ftp:x", "github:a/b"):
        with pytest.raises(MregError, match=wrong.partition(":")[2] or "neither"):
            open_store(wrong)


def test_a_registry_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        list(open_store(f"dir:{tmp_path / 'nowhere'}").repos())


def test_a_killed_publication_in_a_folder_shows_either_the_draft_or_the_release(tmp_path, worktree, monkeypatch):
    from pathlib import Path

    folder = open_store(f"dir:{tmp_path}/registry")
    folder.create_repo(NAME, description="", topics=())
    folder.push_first_commit(NAME, worktree)
    draft = draft_of(folder)

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.publish(draft, latest=True)
    assert [r.draft for r in folder.releases(NAME)] == [True]
    assert not folder.publish(draft, latest=True).draft


def test_a_damaged_record_in_a_folder_is_named(tmp_path, worktree):
    folder = open_store(f"dir:{tmp_path}/registry")
    folder.create_repo(NAME, description="", topics=())
    folder.push_first_commit(NAME, worktree)
    draft_of(folder)
    for record in (tmp_path / "registry" / NAME).rglob("re*.json"):
        good = json.loads(record.read_text())
        wrong = [{**good, key: value} for key in good for value in (None, 5, [5], {"a": 1}) if good[key] != value]
        wrong = [document for document in wrong if record.name != "repo.json" or document["name"] == NAME]
        wrong = [document for document in wrong if document.get("last_id") != 5]
        for text in ('{"name": ', '{"colour": 1}', "[]", *map(json.dumps, wrong)):
            record.write_text(text)
            with pytest.raises(IntegrityError, match=record.name):
                folder.releases(NAME)
        record.write_text(json.dumps(good))
    assert len(folder.releases(NAME)) == 1


def test_a_repository_whose_folder_was_renamed_has_the_folders_name(tmp_path):
    folder = open_store(f"dir:{tmp_path}/registry")
    folder.create_repo(NAME, description="", topics=())
    (tmp_path / "registry" / NAME).rename(tmp_path / "registry" / "model_seg_sc_t1")
    assert [repo.name for repo in folder.repos()] == ["model_seg_sc_t1"]
    assert folder.releases("model_seg_sc_t1") == []


def test_a_kill_while_a_file_is_copied_leaves_nothing_in_the_release(tmp_path, worktree, archive):
    folder = open_store(f"dir:{tmp_path}/registry")
    folder.create_repo(NAME, description="", topics=())
    folder.push_first_commit(NAME, worktree)
    draft = draft_of(folder)
    script = (
        "import os, signal, sys; from pathlib import Path; from registry.stores import open_store\n"
        "store = open_store(sys.argv[1]); draft = store.releases(sys.argv[2])[0]\n"
        "store.upload(draft, Path(sys.argv[3]), lambda _: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", script, folder.location, NAME, archive], check=False)
    assert done.returncode == -signal.SIGKILL
    assert listed(folder, draft).assets == ()
    folder.upload(draft, archive)
    public = folder.publish(draft, latest=True)
    files = (tmp_path / "registry" / NAME / "releases" / public.tag / "assets").iterdir()
    assert [f.name for f in files] == [archive.name]


def test_writers_at_the_same_time_get_a_draft_each_and_one_name_once(tmp_path, worktree, archive):
    folder = open_store(f"dir:{tmp_path}/registry")
    folder.create_repo(NAME, description="", topics=())
    folder.push_first_commit(NAME, worktree)
    with ThreadPoolExecutor(8) as pool:
        drafts = list(pool.map(lambda _: draft_of(open_store(folder.location)), range(8)))
    assert len({d.id for d in drafts}) == 8 == len(folder.releases(NAME))

    def upload(_):
        try:
            return open_store(folder.location).upload(drafts[0], archive).size
        except ConflictError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(map(str, pool.map(upload, range(4)))) == ["300000", "None", "None", "None"]
