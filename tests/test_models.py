"""mreg list and mreg show: what the registry has, in few requests."""

import json

import pytest
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME

from registry import notes
from registry.errors import IntegrityError, MregError
from registry.files import sha256
from registry.models import read_filters, show, show_model, summaries
from registry.refs import RepoRef

NAMES = ["model_seg_gm-wm_mouse_t1", "model_seg_t2", "utilities", "model_seg_lesion_ms_t2_unet3d", NAME]
BLOCK = notes.Block(archive="x.zip", orientation="RPI", labels=("sc", "lesion"))


@pytest.fixture
def many(store, tmp_path):
    """A registry of each kind with four models, one of them released, and something else."""
    for name in NAMES:
        add_repo(store, tmp_path / "first-commits" / name, name, description=f"About {name}")
    (tmp_path / "x.zip").write_bytes(b"x")
    publish(store, TAG, tmp_path / "x.zip", notes=notes.write_block("Hello", BLOCK))
    return store


def named(found):
    return [summary.name for summary in found]


def test_models_are_listed_by_name_with_their_newest_release(many):
    found = list(summaries(many))
    assert named(found) == sorted(name for name in NAMES if name != "utilities")
    entry = found[named(found).index(NAME)].as_json()
    assert entry["tag"] == TAG
    assert entry["date"].startswith("20")
    assert (entry["description"], entry["orientation"], entry["labels"]) == (f"About {NAME}", "RPI", ["sc", "lesion"])
    assert found[0].as_json()["tag"] is None


def test_other_repositories_are_listed_only_on_demand(many):
    assert "utilities" in named(summaries(many, include_all=True))
    assert "utilities" not in named(summaries(many, {"task": "seg"}, include_all=True))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"anatomy": "sc"}, ["model_seg_sc_t2", "model_seg_t2"]),
        ({"anatomy": "wm"}, ["model_seg_gm-wm_mouse_t1"]),
        ({"anatomy": "gm-wm"}, ["model_seg_gm-wm_mouse_t1"]),
        ({"anatomy": "gm-sc"}, []),
        ({"contrast": "T2w", "pathology": "ms"}, ["model_seg_lesion_ms_t2_unet3d"]),
        ({"animal": "human", "architecture": "unet2d"}, ["model_seg_sc_t2", "model_seg_t2"]),
        ({"condition": "exvivo"}, []),
    ],
)
def test_models_are_found_by_the_fields_of_their_names_with_defaults(many, wanted, expected):
    assert named(summaries(many, wanted)) == expected


def test_a_word_that_the_field_does_not_have_is_one_error():
    with pytest.raises(MregError, match="'t2' is not a word for it; t2 is a word for contrast") as caught:
        read_filters({"anatomy": "t2"})
    assert "gm" in caught.value.hint
    with pytest.raises(MregError, match="'nonsense' is not a word"):
        read_filters({"task": "nonsense"})


@pytest.fixture
def crowd(hub):
    """An organisation with two pages of repositories, among them 65 models with a release each."""
    animals = ["human", "dog", "cat", "rat", "mouse", "monkey", "pig"]
    models = [f"model_seg_sc_{animal}_{contrast}" for animal in animals for contrast in CONTRASTS][:65]
    for name in [*(f"other-{number}" for number in range(60)), *models]:
        hub.add_repo(name, files={"README.md": b"x"})
    for name in models:
        hub.add_release(name, TAG, {"x.zip": b"x"}, body=notes.write_block("", BLOCK))
    hub.requests.clear()
    return models


CONTRASTS = ["t1", "t2", "t2star", "dwi", "sem", "tem", "oi", "mp2rage", "psir", "stir"]


def test_a_list_costs_one_request_for_a_hundred_repositories_and_one_for_fifty_models(github, hub, crowd):
    assert {s.name: s.release.tag for s in summaries(github)} == dict.fromkeys(crowd, TAG)
    assert [(r.method, r.path.partition("?")[0]) for r in hub.requests] == [
        *[("GET", "/orgs/ivadomed/repos")] * 2,
        *[("POST", "/graphql")] * 2,
    ]


def test_without_a_token_a_list_costs_one_request_for_each_model_that_fits(hub, crowd):
    from registry.stores.github import GitHubStore

    found = list(summaries(GitHubStore(hub.org), {"animal": "mouse"}))
    assert {s.labels for s in found} == {("sc", "lesion")}
    assert len(hub.requests) == 2 + len(found) == 2 + 10


def test_a_server_that_knows_no_graphql_is_asked_one_by_one(github, hub, crowd):
    hub.fault("POST", "/graphql", "status", times=9, status=404)
    assert len(list(summaries(github, {"animal": "mouse"}))) == 10


def test_a_model_that_an_answer_says_nothing_of_is_asked_for_alone(github, hub, crowd):
    """GraphQL answers 200 with gaps where a part of the query took too long."""
    hub.gaps = {crowd[3], crowd[40]}
    assert {s.name: s.release.tag for s in summaries(github)} == dict.fromkeys(crowd, TAG)
    assert len(hub.requests) == 4 + 2


def test_newest_releases_are_those_of_each_repository(many):
    found = many.newest_releases([NAME, "model_seg_t2"])
    (release,) = many.releases(NAME)
    (newest,) = found[NAME]
    for name in ("id", "tag", "title", "notes", "draft", "published_at", "url"):
        assert getattr(newest, name) == getattr(release, name)
    assert [(a.name, a.size, a.url) for a in newest.assets] == [(a.name, a.size, a.url) for a in release.assets]
    assert found["model_seg_t2"] == []


def test_yanked_releases_and_drafts_are_not_the_newest(many, tmp_path):
    newer = publish(many, "r20260202", tmp_path / "x.zip")
    many.create_draft(NAME, "r20260303", title="", notes="")
    assert show_model(RepoRef(NAME), many).shown.tag == "r20260202"
    many.set_notes(newer, notes.write_block("", notes.Block(yanked="wrong labels")))
    model = show_model(RepoRef(NAME), many)
    assert model.shown.tag == TAG
    assert {(r["tag"], r["draft"], r["yanked"]) for r in model.as_json()["releases"]} == {
        ("r20260303", True, None),
        ("r20260202", False, "wrong labels"),
        (TAG, False, None),
    }
    assert show_model(RepoRef(NAME, "r20260202"), many).shown.id == newer.id


def test_facts_come_from_the_manifest_where_the_notes_were_rewritten(released):
    (found,) = summaries(released)
    assert (found.orientation, found.labels) == ("RPI", ("sc",))


def test_a_model_is_shown_with_facts_files_and_metrics(released, tiny_package, mreg):
    page = mreg("show", NAME, "--registry", released.location)
    assert page.exit_code == 0
    for text in (NAME, TAG, "RPI (SCT; nibabel LAS)", "sc = 1", sha256(tiny_package.archive), "Dice", "0.900"):
        assert text in page.stdout
    document = json.loads(mreg("show", f"{NAME}@{TAG}", "--json", "--registry", released.location).stdout)
    assert document["manifest"] == json.loads(tiny_package.manifest.read_text())
    assert document["fields"]["anatomy"] == ["sc"]
    assets = {asset["name"]: asset["sha256"] for asset in document["releases"][0]["assets"]}
    assert assets[tiny_package.archive.name] == sha256(tiny_package.archive)


def test_showing_a_model_asks_for_repository_releases_and_manifest(released_github, hub):
    hub.requests.clear()
    show_model(RepoRef(NAME), released_github)
    assert len([r for r in hub.requests if r.server == "api"]) <= 4


def test_a_model_without_release_is_shown(registry, mreg):
    result = mreg("show", NAME, "--registry", registry.location)
    assert result.exit_code == 0
    assert "no published release" in result.stdout
    assert json.loads(mreg("show", NAME, "--json", "--registry", registry.location).stdout)["tag"] is None


def test_an_archive_is_shown_with_and_without_its_manifest(tiny_package, mreg, tmp_path):
    page = mreg("show", tiny_package.archive).stdout
    assert sha256(tiny_package.archive) in page
    assert "Dice" in page
    alone = tmp_path / "model.zip"
    alone.write_bytes(tiny_package.archive.read_bytes())
    document = json.loads(mreg("show", alone, "--json").stdout)
    assert document["manifest"] is None
    assert (document["orientation"], document["labels"]) == ("RPI", {"background": 0, "sc": 1})
    assert "RPI" in mreg("show", alone).stdout


def test_a_manifest_of_another_archive_is_not_believed(tiny_package, tmp_path):
    (tmp_path / tiny_package.manifest.name).write_bytes(tiny_package.manifest.read_bytes())
    other = tmp_path / tiny_package.archive.name
    other.write_bytes(tiny_package.archive.read_bytes())
    assert show(str(other)).manifest is not None
    (tmp_path / "renamed.zip").write_bytes(tiny_package.archive.read_bytes())
    assert show(str(tmp_path / "renamed.zip")).manifest is None


def test_what_cannot_be_shown_is_one_error(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"no")
    with pytest.raises(IntegrityError, match="not a zip"):
        show(str(tmp_path / "broken.zip"))
    with pytest.raises(MregError, match="a folder and not an archive"):
        show(str(tmp_path))


def test_the_command_lists_a_table_or_a_document(many, mreg):
    result = mreg("list", "--anatomy", "sc", "--registry", many.location)
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["name", "release", "date", "orientation", "labels", "description"]
    assert [line.split()[:2] for line in lines] == [[NAME, TAG], ["model_seg_t2", "-"]]
    document = json.loads(mreg("list", "--anatomy", "sc", "--json", "--registry", many.location).stdout)
    assert [entry["name"] for entry in document] == [NAME, "model_seg_t2"]


def test_the_command_refuses_a_wrong_word_and_lists_nothing_quietly(many, mreg):
    result = mreg("list", "--task", "sge", "--registry", many.location)
    assert result.exit_code == 1
    assert "there are: seg" in result.stderr
    nothing = mreg("list", "--condition", "exvivo", "--registry", many.location)
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert json.loads(mreg("list", "--condition", "exvivo", "--json", "--registry", many.location).stdout) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["LESION"], ["model_seg_lesion_ms_t2_unet3d", NAME]),  # a word of the name, and a label of the release
        (["lesion", "unet3d"], ["model_seg_lesion_ms_t2_unet3d"]),
        (["about", "mouse"], ["model_seg_gm-wm_mouse_t1"]),
        (["kidney"], []),
    ],
)
def test_models_are_found_by_words_of_name_description_and_labels(many, mreg, words, expected):
    assert [summary.name for summary in summaries(many, words=words)] == expected
    found = json.loads(mreg("list", *words, "--json", "--registry", many.location).stdout)
    assert [entry["name"] for entry in found] == expected


def test_on_a_terminal_a_description_is_cut_and_nothing_else(many, mreg, monkeypatch):
    whole = mreg("list", "--registry", many.location).stdout
    assert f"About {NAME}\n" in whole
    monkeypatch.setattr("registry.output.width", lambda: 90)
    lines = mreg("list", "--registry", many.location).stdout.splitlines()
    assert max(map(len, lines)) == 90
    assert any(line.endswith("…") for line in lines)
    monkeypatch.setattr("registry.output.width", lambda: 20)
    assert all(name in mreg("list", "--registry", many.location).stdout for name in NAMES if name != "utilities")
