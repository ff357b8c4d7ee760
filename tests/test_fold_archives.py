"""A model whose folds lie in archives of their own: packed, checked, released and fetched as one model."""

import json
import shutil

import pytest
from fixtures_release import TAG
from fixtures_stores import NAME

from registry import drafts, models, receipts, workers
from registry.checks import check
from registry.download import fetch, model_for
from registry.errors import MregError, NotFoundError
from registry.model_toml import find_repo
from registry.published import list_releases
from registry.release_files import Options
from registry.releases import release

NEXT = "r20260301"
SPLIT = Options(per_fold=True)
ARCHIVES = [f"{NAME}-fold{fold}-{TAG}.zip" for fold in (0, 1)]


@pytest.fixture
def repo(repo_with_run, monkeypatch, tmp_path):
    """A repo with a run of two folds, on a machine without torch."""
    monkeypatch.setattr(workers, "installed", lambda: False)
    monkeypatch.setenv("MREG_CACHE", str(tmp_path / "cache"))
    run = next((repo_with_run / "runs").iterdir())
    shutil.copytree(run / "fold_0", run / "fold_1")
    return find_repo(repo_with_run)


def test_a_release_of_folds_is_fetched_as_one_model(registry, repo, mreg, tmp_path):
    release(repo, registry, tag=TAG, options=SPLIT)
    (found,) = list_releases(NAME, registry)
    assert sorted(asset.name for asset in found.assets if asset.name.endswith(".zip")) == ARCHIVES
    assert not release(repo, registry, tag=TAG).changed  # as it was packed before
    place = ["--registry", registry.location]
    assert check(f"{NAME}@{TAG}", registry=registry.location, full=True).ok
    both = mreg("fetch", NAME, "-o", tmp_path / "out", *place)
    assert [line.rpartition("/")[2] for line in both.stdout.split()] == ARCHIVES
    whole = mreg("fetch", NAME, "--unpack", "-o", tmp_path / "out", "--json", *place)
    (entry,) = json.loads(whole.stdout)
    assert entry["path"] == str(tmp_path / "out" / f"{NAME}-{TAG}")
    folder = model_for(NAME, registry)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_0", "fold_1"]
    assert folder == model_for(NAME, registry)
    with pytest.raises(MregError, match="has 2 archives") as error:
        fetch(NAME, registry)
    assert f"--asset {ARCHIVES[0]}" in error.value.hint
    assert fetch(NAME, registry, asset=ARCHIVES[1]).path.name == ARCHIVES[1]
    assert mreg("verify", f"{NAME}@{TAG}", *place).exit_code == 0
    assert models.show_model(receipts.RepoRef(NAME), registry).manifest.parts


def test_offline_all_of_its_archives_are_wanted(released_folds, mreg, tmp_path):
    place = ["--registry", released_folds.location, "--offline"]
    fetch(NAME, released_folds, asset=ARCHIVES[0])
    one = mreg("fetch", NAME, "--unpack", *place)
    assert (one.exit_code, "not in the cache" in one.stderr) == (1, True)
    assert mreg("fetch", NAME, "--asset", ARCHIVES[0], *place).exit_code == 0
    fetch(NAME, released_folds, do_unpack=True)
    whole = mreg("fetch", NAME, "--unpack", "-o", tmp_path / "out", *place)
    assert whole.stdout.split() == [str(tmp_path / "out" / f"{NAME}-{TAG}")]
    assert len(mreg("fetch", NAME, *place).stdout.split()) == 2
    with pytest.raises(NotFoundError):
        receipts.find(receipts.RepoRef(NAME), released_folds.location, "other.zip")


@pytest.fixture
def released_folds(registry, repo):
    release(repo, registry, tag=TAG, options=SPLIT)
    return registry


def test_each_is_checked_against_its_own_fold_of_the_release_before(released_folds, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as on the clean machine of the workflow
    release(repo, released_folds, tag=NEXT, options=SPLIT, draft=True)
    fetched = drafts.fetch(f"{NAME}@{NEXT}", released_folds, tmp_path / "draft")
    assert fetched.previous == f"{NAME}@{TAG}"
    assert fetched.archives == tuple(name.replace(TAG, NEXT) for name in ARCHIVES)
    for name in fetched.archives:
        report = check(tmp_path / "draft" / name, against=fetched.previous, registry=released_folds.location)
        assert report.ok, report.findings


def test_another_number_of_archives_is_a_change_that_stops_the_release_until_it_is_accepted(released_folds, repo):
    with pytest.raises(MregError, match="nothing was released"):
        release(repo, released_folds, tag=NEXT)
    assert [r.tag for r in released_folds.releases(NAME)] == [TAG]
    toml = repo.root / "model.toml"
    toml.write_text(toml.read_text() + '\n[release]\naccept = ["CHANGE008"]\n')
    assert release(find_repo(repo.root), released_folds, tag=NEXT).published


def test_the_notes_say_how_to_put_it_together_and_what_sct_does_with_it(github, repo, tmp_path):
    from fixtures_release import add_repo

    add_repo(github, tmp_path / "first-commit")
    release(repo, github, tag=TAG, options=SPLIT)
    (found,) = github.releases(NAME)
    assert f"mreg fetch {NAME}@{TAG} --registry github:ivadomed --unpack" in found.notes
    assert "sct_deepseg" not in found.notes
    assert "SCT would take each for a model of its own" in found.notes
    assert found.notes.count("### Install") == 1
