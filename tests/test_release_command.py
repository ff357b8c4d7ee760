"""`mreg release` on the command line: what it prints, and every refusal is one error."""

import json
import zipfile
from pathlib import Path

import pytest
from fixtures_release import TAG, add_repo
from fixtures_stores import NAME
from releasing import ARCHIVE, published

from registry.errors import NotFoundError
from registry.files import sha256
from registry.releases import release_path

pytestmark = pytest.mark.usefixtures("no_waiting", "no_torch")


@pytest.fixture
def repo(packed_repo):
    """A repo with a run, and its package of TAG in dist."""
    return packed_repo


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
