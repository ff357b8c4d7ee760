"""mreg mirror: copies that are verified, resumed and found again, and a token that goes to its own service only."""

import json
import shutil
import zipfile

import pytest
from fakeplaces import TOKEN, FakeOsf, FakeZenodo, Refused
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME, new_worktree

from registry.download import fetch
from registry.files import sha256
from registry.notes import parse_block
from registry.places import web_api
from registry.stores.folder import FolderStore

CREATOR = ("--creator", "Lovelace, Ada")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """What the client would have waited."""
    slept = []
    monkeypatch.setattr(web_api.time, "sleep", slept.append)
    return slept


@pytest.fixture
def zenodo(monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    with FakeZenodo() as server:
        yield server


@pytest.fixture
def osf(monkeypatch):
    monkeypatch.setenv("OSF_TOKEN", TOKEN)
    with FakeOsf() as server:
        yield server


@pytest.fixture(params=["zenodo", "osf"])
def place(request):
    """Each service, and the arguments that name it."""
    server = request.getfixturevalue(request.param)
    server.flags = ("--to", f"{request.param}:{server.url}", *(CREATOR if request.param == "zenodo" else ()))
    server.uploads = r"/api/files/.*zip" if request.param == "zenodo" else r"kind=file&name=.*zip"
    return server


def mirrors(store):
    return parse_block(store.releases(NAME)[0].notes).mirrors


def total(package):
    return sum(file.stat().st_size for file in package)


# --- both services ---------------------------------------------------------------------------------------------------


def test_a_mirror_has_every_file_and_the_notes_say_where(released, tiny_package, place, mreg):
    where = ("--registry", released.location)
    result = mreg("mirror", NAME, *place.flags, *where, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert set(document["urls"]) == {file.name for file in tiny_package}
    (address,) = mirrors(released)
    assert document["recorded"] == [address]
    assert address == document["urls"][tiny_package.archive.name]
    before = released.releases(NAME)[0]
    assert place.received == total(tiny_package)

    again = json.loads(mreg("mirror", NAME, *place.flags, *where, "--json").stdout)
    assert (again["urls"], again["changed"]) == (document["urls"], False)
    assert place.received == total(tiny_package)  # not a byte twice
    assert released.releases(NAME)[0] == before
    assert fetch(address.partition("#")[0]).sha256 == sha256(tiny_package.archive)


def test_what_the_registry_has_lost_comes_from_the_mirror(released, tiny_package, place, mreg, request, tmp_path):
    mreg("mirror", NAME, *place.flags, "--registry", released.location)
    shutil.rmtree(tmp_path / "cache")
    if released.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        hub.fault("GET", r"releases/download/.*zip", "status", times=99, status=500)
    else:
        next(released.root.rglob("*.zip")).unlink()
    place.requests.clear()
    fetched = mreg("fetch", NAME, "--registry", released.location, "--json")
    assert json.loads(fetched.stdout)[0]["sha256"] == sha256(tiny_package.archive)
    assert place.requests
    assert not any("authorization" in headers for _, _, headers in place.requests)


@pytest.mark.parametrize("fault", ["reset", "lost", Refused(503), Refused(429, headers={"Retry-After": "7"})])
def test_a_fault_on_the_way_is_waited_for(released_github, tiny_package, place, mreg, waits, fault):
    place.faults.append(("PUT", place.uploads, fault))
    result = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert result.exit_code == 0, result.stderr
    assert waits == [7.0 if isinstance(fault, Refused) and fault.headers else 1.0]
    assert len(mirrors(released_github)) == 1


@pytest.mark.parametrize("answer", [{}, [], {"data": None}, {"data": [{}]}, [{}], 3])
def test_a_service_that_answers_something_else_is_one_error(released_github, tiny_package, place, mreg, answer):
    place.serve = lambda *_: (200, answer)
    result = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert "answers with something else than expected" in result.stderr
    assert mirrors(released_github) == ()


@pytest.mark.parametrize("address", ["zenodo:http://[", "osf:https://host:port", "zenodo:ftp://x", "osf:x"])
def test_an_address_of_no_service_is_one_error_and_gets_no_token(released_github, place, mreg, address):
    result = mreg("mirror", NAME, "--to", address, *CREATOR, "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert "error:" in result.stderr
    assert not place.requests


def test_a_mirror_made_in_a_hook_leaves_the_hooks_repository_alone(tiny_package, worktree, mreg, tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "registry")
    add_repo(store, tmp_path / "first-commit")
    publish(store, TAG, *tiny_package)
    monkeypatch.setenv("GIT_DIR", str(worktree / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(worktree / ".git" / "index"))
    before = sorted(p.name for p in (worktree / ".git").rglob("*"))
    result = mreg("mirror", NAME, "--to", f"dir:{tmp_path / 'copy'}", "--registry", store.location)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (worktree / ".git").rglob("*")) == before


def test_a_mirror_that_was_cut_off_goes_on(released_github, tiny_package, place, mreg):
    place.faults += [("PUT", place.uploads, Refused(403, "quota"))]
    first = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert first.exit_code == 1
    assert "403 quota" in first.stderr
    assert mirrors(released_github) == ()
    assert mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed").exit_code == 0
    assert place.received == total(tiny_package)
    assert len(getattr(place, "depositions", {1: 1})) == 1


def test_a_file_that_arrived_with_other_bytes_is_sent_anew(released_github, tiny_package, place, mreg, monkeypatch):
    mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    if isinstance(place, FakeZenodo):
        (number,) = place.depositions
        place.depositions[number]["submitted"] = False
        place.bytes[number, tiny_package.archive.name] = b"half"
        place.bytes[number, "not-ours.txt"] = b"x"
    else:
        next(e for e in place.entities.values() if e["name"].endswith(".zip"))["data"] = b"half"
    result = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed", "--json")
    assert result.exit_code == 0, result.stderr
    address = json.loads(result.stdout)["urls"][tiny_package.archive.name]
    assert fetch(address.partition("#")[0]).sha256 == sha256(tiny_package.archive)


def test_the_token_is_told_to_nobody(released_github, hub, place, mreg, tmp_path):
    place.faults.append(("POST" if isinstance(place, FakeZenodo) else "PUT", "", Refused(400, f"bad {TOKEN}")))
    failed = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert failed.exit_code == 1
    done = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert TOKEN not in failed.output + done.output + released_github.releases(NAME)[0].notes
    assert not any(TOKEN in str(request.headers) for request in hub.requests)
    assert not any(hub.token in str(headers) for _, _, headers in place.requests)
    assert not any(TOKEN in path.read_text() for path in (tmp_path / "cache" / "deposits").glob("*"))


def test_a_wrong_token_and_none_are_told(released_github, place, mreg, monkeypatch):
    name = "ZENODO_TOKEN" if isinstance(place, FakeZenodo) else "OSF_TOKEN"
    monkeypatch.setenv(name, "wrong")
    result = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert (result.exit_code, f"is {name} right" in result.stderr) == (1, True)
    monkeypatch.delenv(name)
    result = mreg("mirror", NAME, *place.flags, "--registry", "github:ivadomed")
    assert (result.exit_code, f"export {name}=" in result.stderr) == (1, True)


# --- Zenodo ----------------------------------------------------------------------------------------------------------


def test_zenodo_s_record_says_what_it_is(released, zenodo, mreg):
    flags = ("--to", f"zenodo:{zenodo.url}", "--registry", released.location)
    nobody = mreg("mirror", NAME, *flags)
    assert (nobody.exit_code, "who made the model" in nobody.stderr) == (1, True)
    assert zenodo.depositions == {}
    assert mreg("mirror", NAME, *flags, *CREATOR).exit_code == 0
    (record,) = zenodo.depositions.values()
    metadata = record["metadata"]
    assert (metadata["title"], metadata["version"]) == (f"{NAME} {TAG}", TAG)
    assert metadata["creators"] == [{"name": "Lovelace, Ada"}]
    assert metadata["license"] == "mit"


def test_authors_of_model_toml_are_the_creators(store, tiny_package, zenodo, mreg, tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    new_worktree(folder, {"model.toml": b'[model]\nauthors = ["Lovelace, Ada", "Hopper, Grace"]\n'})
    store.create_repo(NAME, description="x", topics=())
    store.push_first_commit(NAME, folder)
    publish(store, TAG, *tiny_package)
    assert mreg("mirror", NAME, "--to", f"zenodo:{zenodo.url}", "--registry", store.location).exit_code == 0
    (record,) = zenodo.depositions.values()
    assert [creator["name"] for creator in record["metadata"]["creators"]] == ["Lovelace, Ada", "Hopper, Grace"]


def test_zenodo_s_list_that_lags_behind_makes_no_second_deposit(released_github, zenodo, mreg):
    zenodo.lag = True
    flags = ("--to", f"zenodo:{zenodo.url}", *CREATOR, "--registry", "github:ivadomed")
    zenodo.faults.append(("PUT", "/api/files/", Refused(403, "quota")))
    assert mreg("mirror", NAME, *flags).exit_code == 1
    assert mreg("mirror", NAME, *flags).exit_code == 0
    assert len(zenodo.depositions) == 1


def test_another_machine_finds_zenodo_s_record(released_github, zenodo, mreg, tmp_path):
    flags = ("--to", f"zenodo:{zenodo.url}", *CREATOR, "--registry", "github:ivadomed")
    mreg("mirror", NAME, *flags)
    shutil.rmtree(tmp_path / "cache")
    received = zenodo.received
    assert mreg("mirror", NAME, *flags).exit_code == 0
    assert (len(zenodo.depositions), zenodo.received) == (1, received)


def test_a_published_record_with_other_bytes_is_not_believed(released_github, tiny_package, zenodo, mreg):
    flags = ("--to", f"zenodo:{zenodo.url}", *CREATOR, "--registry", "github:ivadomed")
    mreg("mirror", NAME, *flags)
    (number,) = zenodo.depositions
    zenodo.bytes[number, tiny_package.archive.name] = b"other"
    result = mreg("mirror", NAME, *flags)
    assert (result.exit_code, f"has another {tiny_package.archive.name}" in result.stderr) == (1, True)


def test_a_bucket_on_another_host_gets_no_token(released_github, zenodo, mreg, monkeypatch):
    view = FakeZenodo._view
    monkeypatch.setattr(
        FakeZenodo, "_view", lambda self, d: {**view(self, d), "links": {"bucket": "https://evil.example.org/b"}}
    )
    result = mreg("mirror", NAME, "--to", f"zenodo:{zenodo.url}", *CREATOR, "--registry", "github:ivadomed")
    assert (result.exit_code, "evil.example.org is no address of" in result.stderr) == (1, True)


# --- OSF -------------------------------------------------------------------------------------------------------------


def test_osf_s_project_is_made_once_or_named(released_github, osf, mreg):
    flags = ("--registry", "github:ivadomed")
    osf.add_node("zzz99", f"About {NAME}")  # another project, whose title holds the name
    assert mreg("mirror", NAME, "--to", f"osf:{osf.url}", *flags).exit_code == 0
    assert mreg("mirror", NAME, "--to", f"osf:{osf.url}", *flags).exit_code == 0
    assert len(osf.nodes) == 2
    osf.add_node("mine1", "Models of our lab")
    assert mreg("mirror", NAME, "--to", f"osf:{osf.url}/mine1", *flags).exit_code == 0
    assert {e["node"] for e in osf.entities.values()} == {"abc01", "mine1"}
    assert len(mirrors(released_github)) == 2


def test_a_private_project_is_no_mirror(released_github, osf, mreg):
    osf.add_node("mine1", "secret", public=False)
    result = mreg("mirror", NAME, "--to", f"osf:{osf.url}/mine1", "--registry", "github:ivadomed")
    assert (result.exit_code, "is private" in result.stderr) == (1, True)
    assert osf.entities == {}


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_registry_that_needs_no_network(released, tiny_package, mreg, tmp_path):
    where = ("--registry", released.location)
    disk = f"dir:{tmp_path / 'disk'}"
    result = mreg("mirror", NAME, "--to", disk, *where)
    assert result.exit_code == 0, result.stderr
    for command in (("fetch", NAME), ("verify", NAME), ("show", NAME)):
        assert mreg(*command, "--registry", disk).exit_code == 0
    listed = json.loads(mreg("list", "--registry", disk, "--json").stdout)
    assert [(entry["name"], entry["tag"]) for entry in listed] == [(NAME, TAG)]
    before = FolderStore(tmp_path / "disk").releases(NAME)
    assert mreg("mirror", NAME, "--to", disk, *where).exit_code == 0
    assert [r.assets for r in FolderStore(tmp_path / "disk").releases(NAME)] == [r.assets for r in before]
    mreg("yank", f"{NAME}@{TAG}", "--reason", "wrong", *where)
    mreg("mirror", f"{NAME}@{TAG}", "--to", disk, *where)
    assert "wrong" in mreg("fetch", f"{NAME}@{TAG}", "--registry", disk).stderr


def test_a_path_of_this_machine_is_not_written_into_public_notes(released, tmp_path, mreg):
    result = mreg("mirror", NAME, "--to", f"dir:{tmp_path / 'disk'}", "--registry", released.location, "--json")
    if released.location.startswith("github:"):
        assert mirrors(released) == ()
        assert str(tmp_path) not in released.releases(NAME)[0].notes
        assert json.loads(result.stdout)["recorded"] == []
        with_url = ("--url", "https://models.example.org/")
        mreg("mirror", NAME, "--to", f"dir:{tmp_path / 'disk'}", *with_url, "--registry", released.location)
        (address,) = mirrors(released)
        assert address.startswith(f"https://models.example.org/{NAME}/releases/{TAG}/assets/")
    else:
        (address,) = mirrors(released)
        assert address.startswith("file://")


def test_other_bytes_in_the_folder_are_not_replaced(released, tiny_package, mreg, tmp_path):
    disk = f"dir:{tmp_path / 'disk'}"
    mreg("mirror", NAME, "--to", disk, "--registry", released.location)
    record = next((tmp_path / "disk").rglob("release.json"))
    record.write_text(record.read_text().replace(sha256(tiny_package.archive), "ab" * 32))
    result = mreg("mirror", NAME, "--to", disk, "--registry", released.location)
    assert (result.exit_code, "which is never replaced" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("to", "word"),
    [
        ("ftp:x", "no such kind of place"),
        ("dir:", "no such kind of place"),
        ("zenodo:http://example.org", "not encrypted"),
        ("osf:https://osf.io/a/b", "not the address of a project"),
    ],
)
def test_what_is_no_place_is_one_error(released_github, mreg, monkeypatch, to, word):
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    monkeypatch.setenv("OSF_TOKEN", TOKEN)
    result = mreg("mirror", NAME, "--to", to, "--registry", "github:ivadomed")
    assert (result.exit_code, word in result.stderr) == (1, True), result.stderr


def test_a_release_that_nobody_described_has_no_mirror(registry, mreg, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("a", "x")
    publish(registry, TAG, tmp_path / "model.zip")
    result = mreg("mirror", NAME, "--to", f"dir:{tmp_path / 'disk'}", "--registry", registry.location)
    assert (result.exit_code, "no mreg-release.json" in result.stderr) == (1, True)
    itself = mreg("mirror", NAME, "--to", f"dir:{tmp_path / 'registry'}", "--registry", f"dir:{tmp_path / 'registry'}")
    assert itself.exit_code == 1
