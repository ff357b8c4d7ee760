"""What only GitHub can do wrong: faults on the way, limits, permissions, and where the token may go."""

import logging
import os
import subprocess

import pytest
from fixtures_stores import NAME, git, new_worktree

from registry.errors import AccessError, ConflictError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.files import sha256
from registry.stores.github import GitHubStore
from registry.stores.github_api import GitHubApi
from registry.stores.github_repo import SEED_MESSAGE

UPLOAD, EVERY_TRY = r"/assets\?", 6


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(os.urandom(3_000_000))
    return path


@pytest.fixture
def draft(hub, github):
    """A draft in a repository with one file; the log starts after it."""
    hub.add_repo(NAME, {"README.md": b"# Model\n"})
    made = github.create_draft(NAME, "r20260131", title="First", notes="")
    hub.requests.clear()
    return made


@pytest.fixture
def public(hub, archive):
    """A published release whose asset has the archive's bytes."""
    hub.add_repo(NAME, {"README.md": b"# Model\n"})
    hub.add_release(NAME, "r20260131", {"model.zip": archive.read_bytes()})
    return GitHubStore(hub.org).releases(NAME)[0]


def people_go_on(hub):
    """Add a commit with other files to the default branch."""
    repo = hub.git(hub.repo(NAME))
    who = {"name": "A", "email": "a@b.c", "date": "2026-02-01T00:00:00Z"}
    tree = repo.write_tree({"NEW.md": ("100644", repo.write("blob", b"new"))})
    repo.set_ref("refs/heads/main", repo.write_commit(tree, [hub.head(NAME)[0]["sha"]], "Later\n", who, who))


def states(hub):
    return [a["state"] for release in hub.repo(NAME)["releases"].values() for a in release["assets"].values()]


# --- uploads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"status": 502}),
        ("status", {"status": 502, "starter": True}),
        ("status", {"status": 503, "starter": True, "times": 3}),
        ("reset", {"after": 0}),
        ("reset", {"after": 1_500_000}),
        ("limit", {"retry_after": 1}),
        ("alter", {}),
        ("lost", {}),
        ("late", {"status": 502}),
    ],
)
def test_an_upload_survives_a_fault_and_leaves_one_whole_asset(hub, github, draft, archive, kind, options):
    fault = hub.fault("POST", UPLOAD, kind, **options)
    counts = []
    asset = github.upload(draft, archive, counts.append)
    assert fault.times == 0
    assert states(hub) == ["uploaded"]
    assert hub.asset_path(int(asset.id)).read_bytes() == archive.read_bytes()
    assert (asset.size, asset.sha256) == (3_000_000, sha256(archive))
    assert sum(counts) in (0, 3_000_000)  # 0: the asset of the failed try turned out to be whole
    assert len(hub.sleeps) == options.get("times", 1)


def test_an_upload_that_always_arrives_changed_is_an_error_and_leaves_nothing(hub, github, draft, archive):
    hub.fault("POST", UPLOAD, "alter", times=EVERY_TRY)
    with pytest.raises(IntegrityError, match=r"model\.zip arrived with other bytes"):
        github.upload(draft, archive)
    assert states(hub) == []


def test_a_file_that_is_no_longer_the_one_that_was_packed_is_not_kept(hub, github, draft, archive):
    packed = sha256(archive)
    archive.write_bytes(b"another" + archive.read_bytes()[7:])
    with pytest.raises(IntegrityError, match=r"model\.zip arrived with other bytes"):
        github.upload(draft, archive, digest=packed)
    assert states(hub) == []


def test_a_broken_upload_of_somebody_who_was_killed_is_replaced(hub, github, draft, archive):
    hub.fault("POST", UPLOAD, "status", starter=True, times=EVERY_TRY)
    with pytest.raises(RegistryError, match="502"):
        github.upload(draft, archive)
    assert states(hub) == ["starter"]
    assert [a.uploaded for a in github.releases(NAME)[0].assets] == [False]
    github.upload(draft, archive)
    assert states(hub) == ["uploaded"]


def test_an_upload_streams_with_its_length_in_one_request_or_two_where_the_draft_is_older(hub, draft, archive):
    store = GitHubStore(hub.org)
    store.upload(draft, archive)
    assert [(r.method, r.status) for r in hub.requests] == [("GET", 200), ("POST", 201)]
    assert hub.requests[1].headers["content-length"] == "3000000"
    assert hub.requests[1].headers["content-type"] == "application/zip"
    made = store.create_draft(NAME, "r20260201", title="", notes="", commit=draft.commit)
    hub.requests.clear()
    store.upload(made, archive)
    assert [(r.method, r.status) for r in hub.requests] == [("POST", 201)]


def test_an_upload_address_on_another_server_gets_no_token(hub, draft, archive, monkeypatch):
    from fakehub import views

    real = views.release
    monkeypatch.setattr(views, "release", lambda *a: {**real(*a), "upload_url": "http://evil.example/x{?name}"})
    with pytest.raises(RegistryError, match="evil"):
        GitHubStore(hub.org).upload(draft, archive)
    with pytest.raises(RegistryError, match="evil"):
        GitHubStore(hub.org).create_draft(NAME, "r20260201", title="", notes="")


@pytest.mark.parametrize(
    ("api", "upload", "ours"),
    [
        ("https://api.github.com", "https://uploads.github.com/repos/a/b/releases/1/assets", True),
        ("https://ghe.example/api/v3", "https://ghe.example/api/uploads/repos/a/b/releases/1/assets", True),
        ("https://api.acme.ghe.com", "https://uploads.acme.ghe.com/repos", True),
        ("https://api.github.com", "http://uploads.github.com/repos", False),
        ("https://api.github.com", "https://uploads.github.com.evil.example/repos", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8001/repos", False),
    ],
)
def test_which_upload_addresses_belong_to_an_api(api, upload, ours):
    assert GitHubApi(url=api).trusts(upload) is ours


# --- publication and other calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "waited"),
    [
        ("limit", {"retry_after": 7}, [7.0]),
        ("limit", {"retry_after": None}, [60.0]),
        ("limit", {"retry_after": 3, "status": 429}, [3.0]),
        ("status", {"status": 502, "times": 3}, [1.0, 2.0, 4.0]),
        ("reset", {}, [1.0]),
        ("lost", {}, [1.0]),
        ("late", {"status": 504}, [1.0]),
        ("truncate", {}, [1.0]),
    ],
)
def test_publishing_waits_and_tries_again(hub, github, draft, kind, options, waited):
    hub.fault("PATCH", "/releases/", kind, **options)
    assert not github.publish(draft, latest=True).draft
    assert hub.sleeps == waited
    assert len(hub.repo(NAME)["releases"]) == 1


def test_publishing_says_whether_the_release_is_the_latest(hub, github, draft):
    github.publish(draft, latest=False)
    assert hub.repo(NAME)["latest"] is None
    other = github.publish(github.create_draft(NAME, "r20260201", title="", notes=""), latest=True)
    assert str(hub.repo(NAME)["latest"]) == other.id
    patches = [r.body for r in hub.requests if r.method == "PATCH"]
    assert [p["make_latest"] for p in patches] == ["false", "true"]
    assert [p["tag_name"] for p in patches] == ["r20260131", "r20260201"]


def test_publishing_tags_the_commit_that_the_draft_was_made_on(hub, github, draft):
    people_go_on(hub)
    github.publish(draft, latest=True)
    assert hub.git(hub.repo(NAME)).ref("refs/tags/r20260131") == draft.commit != hub.head(NAME)[0]["sha"]


@pytest.mark.parametrize("kind", ["lost", "late"])
def test_a_draft_whose_answer_was_lost_is_found_and_not_made_twice(hub, github, draft, kind):
    hub.fault("POST", "/releases$", kind)
    made = github.create_draft(NAME, "r20260201", title="Second", notes="n")
    assert [r.id for r in github.releases(NAME)] == [made.id, draft.id]


def test_a_deletion_whose_answer_was_lost_is_done(hub, github, draft):
    hub.fault("DELETE", "/releases/", "lost")
    github.delete_draft(draft)
    assert hub.repo(NAME)["releases"] == {}


def test_giving_up_names_the_repo_and_the_step(hub, github, draft):
    hub.fault("PATCH", "/releases/", "status", times=EVERY_TRY, message="Unicorn!")
    with pytest.raises(
        RegistryError, match=rf"ivadomed/{NAME}: cannot publish r20260131: GitHub answers 502: Unicorn!"
    ):
        github.publish(draft, latest=True)
    assert hub.sleeps == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_limit_of_an_hour_is_an_error_and_not_a_wait(hub, github, draft):
    hub.fault("GET", "/releases", "limit", retry_after=3600)
    with pytest.raises(AccessError, match="rate limit"):
        github.releases(NAME)
    hub.fault("GET", "/releases", "status", status=403, message="API rate limit exceeded",
              headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"})  # fmt: skip
    with pytest.raises(AccessError) as error:
        GitHubStore(hub.org, token="").releases(NAME)
    assert hub.sleeps == []
    assert "run the same command again" in error.value.hint


def test_a_server_that_is_not_there_is_an_error_after_some_tries(hub, monkeypatch):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RegistryError, match=address) as error:
        GitHubStore(hub.org, url=address).repo(NAME)
    assert hub.sleeps == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert "network" in error.value.hint


@pytest.mark.parametrize("address", ["github.com", "ftp://github.com", ""])
def test_an_api_address_that_is_none_is_refused_or_the_default(monkeypatch, address):
    monkeypatch.setenv("GITHUB_API_URL", address)
    if not address:
        assert GitHubApi().url == "https://api.github.com"
        return
    with pytest.raises(MregError, match="GITHUB_API_URL"):
        GitHubApi()


def test_a_website_instead_of_an_api_is_told(hub, github):
    hub.fault("GET", "/repos/", "status", status=200, message="Welcome", times=2)
    with pytest.raises(RegistryError, match="something else than expected"):
        github.repo(NAME)
    with pytest.raises(RegistryError, match="something else than a list"):
        github.releases(NAME)


# --- creating and filling a repository -------------------------------------------------------------------------------


def test_a_new_repo_ends_with_one_commit_labels_and_a_protected_branch(hub, github, worktree):
    github.create_repo(NAME, description="Cord", topics=("mri",))
    github.push_first_commit(NAME, worktree)
    (commit,) = hub.head(NAME)
    assert commit["sha"] == git(worktree, "rev-parse", "HEAD")
    bare = hub.git(hub.repo(NAME)).path
    assert subprocess.run(["git", "--git-dir", bare, "fsck", "--strict"], check=False).returncode == 0
    assert {"data", "training", "release", "sct", "bug"} <= set(hub.repo(NAME)["labels"])
    rules = hub.repo(NAME)["protection"]["main"]
    assert not rules["allow_force_pushes"]
    assert rules["required_pull_request_reviews"]


def test_a_second_run_asks_and_writes_nothing(hub, github, worktree):
    for _ in range(2):
        hub.requests.clear()
        github.create_repo(NAME, description="Cord", topics=("mri",))
        github.push_first_commit(NAME, worktree)
    assert hub.count("POST|PUT|PATCH|DELETE") == 0
    assert hub.count() == 5


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/orgs/.*/repos"), ("PUT", "/topics"), ("POST", "/labels"), ("PUT", "/contents/"), ("POST", "/git/blobs"),
     ("POST", "/git/trees"), ("POST", "/git/commits"), ("PATCH", "/git/refs"), ("PUT", "/protection")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["status", "lost"])
def test_a_run_that_broke_off_anywhere_is_completed_by_the_next(hub, github, worktree, method, path, kind):
    def new():
        github.create_repo(NAME, description="Cord", topics=("mri",))
        github.push_first_commit(NAME, worktree)

    hub.fault(method, path, kind, times=EVERY_TRY)
    try:
        new()
    except MregError:
        hub.faults.clear()
        new()
    hub.faults.clear()
    (commit,) = hub.head(NAME)
    assert commit["sha"] == git(worktree, "rev-parse", "HEAD")
    assert hub.repo(NAME)["topics"] == ["mri"]
    assert "main" in hub.repo(NAME)["protection"]
    assert len(hub.repo(NAME)["labels"]) == 6


def test_a_seed_that_a_killed_run_left_is_replaced(hub, github, worktree):
    github.create_repo(NAME, description="", topics=())
    hub.fault("POST", "/git/trees", "status", status=500, times=EVERY_TRY)
    with pytest.raises(RegistryError, match="push the files"):
        github.push_first_commit(NAME, worktree)
    assert [c["message"] for c in hub.head(NAME)] == [SEED_MESSAGE]
    github.push_first_commit(NAME, worktree)
    assert [c["message"] for c in hub.head(NAME)] == ["First commit\n\nwith a body\n"]


def test_a_repo_that_people_went_on_with_is_left_alone(hub, github, worktree):
    github.create_repo(NAME, description="", topics=())
    github.push_first_commit(NAME, worktree)
    people_go_on(hub)
    assert github.push_first_commit(NAME, worktree).commit == hub.head(NAME)[0]["sha"]
    assert len(hub.head(NAME)) == 2


def test_a_commit_without_files_is_refused(hub, github, tmp_path):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet", "--initial-branch=main")
    git(tmp_path / "empty", "commit", "--quiet", "--allow-empty", "--message", "Nothing")
    github.create_repo(NAME, description="", topics=())
    with pytest.raises(MregError, match="has no files"):
        github.push_first_commit(NAME, tmp_path / "empty")


def test_a_user_account_is_a_registry_too(hub, hub_token, tmp_path):
    (tmp_path / "w").mkdir()
    store = GitHubStore("ada")
    store.create_repo(NAME, description="", topics=())
    store.push_first_commit(NAME, new_worktree(tmp_path / "w", {"README.md": b"# Ada's\n"}))
    assert [r.name for r in store.repos()] == [NAME]
    assert hub.repo(f"ada/{NAME}")["owner"] == "ada"


def test_an_account_that_is_not_there_is_named_with_the_way_out(hub, github):
    with pytest.raises(NotFoundError, match="nobody") as error:
        GitHubStore("nobody").create_repo(NAME, description="", topics=())
    assert "github:ada" in error.value.hint
    with pytest.raises(NotFoundError, match="nobody"):
        list(GitHubStore("nobody").repos())


def test_a_renamed_repo_answers_to_its_old_name_and_is_not_made_again(hub, github):
    hub.add_repo(NAME, {"README.md": b"# Model\n"})
    hub.add_release(NAME, "r20260131", {"model.zip": b"zip"})
    hub.state["renamed"]["ivadomed/old_name"] = f"ivadomed/{NAME}"
    assert github.repo("old_name").name == NAME
    assert github.releases("old_name")[0].tag == "r20260131"
    with pytest.raises(ConflictError, match=f"ivadomed/{NAME}"):
        github.create_repo("old_name", description="", topics=())


def test_a_protection_that_the_plan_does_not_have_is_a_warning(hub, github, worktree, capsys):
    github.create_repo(NAME, description="", topics=())
    message = "Upgrade to GitHub Pro or make this repository public to enable this feature."
    hub.fault("PUT", "/protection", "status", status=403, message=message)
    github.push_first_commit(NAME, worktree)
    assert "paid plans" in capsys.readouterr().err


# --- permissions and tokens ------------------------------------------------------------------------------------------


def test_reading_needs_no_token_and_writing_says_how_to_get_one(hub, public, worktree, archive):
    store = GitHubStore(hub.org)
    assert store.repo(NAME).commit == hub.head(NAME)[0]["sha"]
    assert store.read_file(NAME, "README.md") == b"# Model\n"
    hub.requests.clear()
    for write in (
        lambda: store.create_repo("model_seg_sc_t1", description="", topics=()),
        lambda: store.push_first_commit(NAME, worktree),
        lambda: store.create_draft(NAME, "r20260201", title="", notes=""),
        lambda: store.upload(public, archive),
        lambda: store.delete_draft(public),
        lambda: store.set_notes(public, ""),
    ):
        with pytest.raises(AccessError, match="no GitHub token") as error:
            write()
        assert "GITHUB_TOKEN" in error.value.hint
        assert "write" in error.value.hint
    assert hub.count() == 0


def test_a_wrong_token_is_told_apart_from_a_weak_one(hub, public, monkeypatch):
    monkeypatch.setenv("GH_TOKEN", "ghp_wrong")
    with pytest.raises(AccessError, match="401") as error:
        GitHubStore(hub.org).create_draft(NAME, "r20260201", title="", notes="")
    assert "expired" in error.value.hint
    weak = GitHubStore(hub.org, token=hub.add_token("ghp_weak", can=("issues",)))
    with pytest.raises(AccessError, match="403") as error:
        weak.create_draft(NAME, "r20260201", title="", notes="")
    assert "contents=write" in error.value.hint
    with pytest.raises(AccessError, match="create the repository in ivadomed") as error:
        weak.create_repo("model_seg_sc_t1", description="", topics=())
    assert "administration=write" in error.value.hint
    assert hub.sleeps == []


def test_a_token_without_workflows_is_told_so(hub, worktree):
    store = GitHubStore(hub.org, token=hub.add_token("ghp_x", can=("contents", "administration", "issues")))
    store.create_repo(NAME, description="", topics=())
    with pytest.raises(NotFoundError, match=NAME) as error:
        store.push_first_commit(NAME, worktree)
    assert "Workflows: write" in error.value.hint


def test_a_refused_value_is_told_in_githubs_words(hub, github, draft):
    hub.fault("PATCH", "/releases/", "status", status=422, message="body is too long (maximum is 125000 characters)")
    with pytest.raises(RegistryError, match="body is too long"):
        github.set_notes(draft, "x")
    assert hub.sleeps == []


def test_drafts_are_hidden_from_readers(hub, draft):
    reader = GitHubStore(hub.org, token=hub.add_token("ghp_reader", can=()))
    assert reader.releases(NAME) == []
    with pytest.raises(NotFoundError, match="404"):
        reader.publish(draft, latest=True)


def test_the_token_is_in_no_message_log_or_output(hub, hub_token, tmp_path, caplog, capsys, worktree, archive):
    caplog.set_level(logging.DEBUG)
    store, said = GitHubStore(hub.org), []
    hub.fault("POST", "/orgs/", "status", status=403, message=f"the token {hub_token} is bad")
    hub.fault("POST", UPLOAD, "status", status=400, message=f"Authorization: Bearer {hub_token}")
    hub.fault("PATCH", "/releases/", "status", status=502, message=f"try {hub_token}", times=EVERY_TRY)
    hub.fault("GET", "/releases$", "reset", times=EVERY_TRY)

    def attempt(action):
        with pytest.raises(MregError) as error:
            action()
        said.extend((error.value.message, error.value.hint, repr(error.value), str(error.getrepr(style="long"))))

    attempt(lambda: store.create_repo(NAME, description="", topics=()))
    store.create_repo(NAME, description="", topics=())
    store.push_first_commit(NAME, worktree)
    draft = store.create_draft(NAME, "r20260131", title="", notes="")
    attempt(lambda: store.upload(draft, archive))
    store.upload(draft, archive)
    attempt(lambda: store.publish(draft, latest=True))
    captured = capsys.readouterr()
    said += [caplog.text, captured.out, captured.err, repr(store), repr(vars(store))]
    assert "***" in said[0]
    for text in said:
        assert hub_token not in text


# --- downloads -------------------------------------------------------------------------------------------------------


def read(store, release, offset=0):
    with store.open_asset(release, release.assets[0], offset) as stream:
        return stream.read()


def test_the_token_never_reaches_the_storage_nor_the_public_address(
    hub, github, public, archive, tmp_path, monkeypatch
):
    (tmp_path / "netrc").write_text(
        "machine localhost login ada password secret\nmachine 127.0.0.1 login ada password secret\n"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    draft = github.create_draft(NAME, "r20260201", title="", notes="")
    github.upload(draft, archive)
    hub.requests.clear()
    for release in (public, github.releases(NAME)[0]):
        assert read(github, release) == archive.read_bytes()
    assert hub.count("GET", "/releases/assets/") == 1  # the draft; the public one costs no call of the API
    for request in hub.requests:
        if request.server == "storage" or "/releases/download/" in request.path:
            assert "authorization" not in request.headers


def test_an_asset_of_a_private_repo_comes_through_the_api(hub, github, public, archive):
    hub.repo(NAME)["private"] = True
    assert read(github, public) == archive.read_bytes()
    hub.requests.clear()
    with pytest.raises(NotFoundError, match=r"model\.zip"):
        read(GitHubStore(hub.org, token=hub.add_token("ghp_outside", can=())), public)


@pytest.mark.parametrize("kind", ["truncate", "reset", "status"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_the_connection_broke(hub, public, archive, kind, ranges):
    hub.ranges = ranges
    fault = hub.fault("GET", "/release-assets/", kind, after=1_000_000 if kind == "truncate" else 0, times=2)
    assert read(GitHubStore(hub.org), public, 5) == archive.read_bytes()[5:]
    assert fault.times == 0
    if kind == "truncate" and ranges:
        wanted = [(r.headers.get("range"), "if-range" in r.headers) for r in hub.requests if r.server == "storage"]
        assert wanted == [("bytes=5-", False), ("bytes=1000005-", True), ("bytes=2000005-", True)]


def test_an_asset_that_changes_while_it_is_read_is_an_error(hub, public):
    hub.fault("GET", "/release-assets/", "truncate", after=1_000_000)
    with GitHubStore(hub.org).open_asset(public, public.assets[0]) as stream:
        stream.read(1000)
        hub.asset_path(int(public.assets[0].id)).write_bytes(os.urandom(3_000_000))
        with pytest.raises(IntegrityError, match="changed while it was read"):
            stream.read()


def test_a_download_that_never_comes_is_an_error(hub, public):
    hub.fault("GET", "/release-assets/", "reset", times=EVERY_TRY)
    with pytest.raises(RegistryError, match=r"download model\.zip"):
        read(GitHubStore(hub.org), public)


# --- how many requests -----------------------------------------------------------------------------------------------


def test_long_lists_take_a_request_a_hundred(hub, public):
    for number in range(120):
        hub.add_repo(f"model_{number:03}")
    for number in range(130):
        hub.add_release(NAME, f"r2025{number:04}")
    store = GitHubStore(hub.org)
    hub.requests.clear()
    names = [r.name for r in store.repos()]
    assert (len(names), names) == (121, sorted(names))
    assert hub.count() == 2
    assert len(store.releases(NAME)) == 131
    assert hub.count() == 4


def test_reading_costs_few_requests(hub, public):
    store, costs = GitHubStore(hub.org), {}
    for name, action in {
        "repo": lambda: store.repo(NAME),
        "releases": lambda: store.releases(NAME),
        "read_file": lambda: store.read_file(NAME, "README.md"),
        "download": lambda: read(store, public),
    }.items():
        hub.requests.clear()
        action()
        costs[name] = sum(1 for r in hub.requests if r.server == "api")
    assert costs == {"repo": 2, "releases": 1, "read_file": 1, "download": 1}


def test_a_file_above_a_megabyte_is_read_from_the_git_data(hub, github):
    data = os.urandom(1_500_000)
    hub.add_repo(NAME, {"big.bin": data})
    assert github.read_file(NAME, "big.bin") == data
