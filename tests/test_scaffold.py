"""`mreg new`: the repository on disk and in the registry, after one try and after broken ones."""

import fcntl
import json
import os
import subprocess
import sys
from datetime import datetime

import pytest
import yaml
from fixtures_stores import git

from registry import model_toml, names, origin, scaffold, words
from registry.card import END, START
from registry.errors import ConflictError, MregError
from registry.scaffold_files import LICENCES
from registry.stores.folder import FolderStore

NAME = "model_seg_sc_t2"
FILES = [
    ".github/workflows/check.yml",
    ".github/workflows/release.yml",
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "README.md",
    "model.toml",
]


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """A machine where git knows nobody."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name == "EMAIL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


def snapshot(folder):
    """Return path → bytes and time of everything below a folder."""
    return {
        p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
        if p.name != "index"  # git status refreshes it
    }


def assert_one_clean_commit(root):
    assert git(root, "rev-list", "--all", "--count") == "1"
    assert git(root, "branch", "--show-current") == "main"
    assert git(root, "status", "--porcelain", "--ignored") == ""
    assert git(root, "ls-files").splitlines() == FILES


def test_a_name_becomes_a_repository_on_disk_and_in_the_registry(mreg, tmp_path):
    done = mreg("new", NAME, "--dir", tmp_path / "models", "--registry", f"dir:{tmp_path / 'registry'}")
    root = tmp_path / "models" / NAME
    assert (done.exit_code, done.stdout) == (0, f"{root}\n")
    assert_one_clean_commit(root)
    info = FolderStore(tmp_path / "registry").repo(NAME)
    assert info.commit == git(root, "rev-parse", "HEAD")
    assert info.description == "Segmentation of spinal cord on T2-weighted MRI"
    assert {"mreg", "seg", "sc", "t2"} <= set(info.topics)
    assert FolderStore(tmp_path / "registry").read_file(NAME, "model.toml") == (root / "model.toml").read_bytes()
    assert model_toml.find_repo(root).name == NAME
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [NAME]


def test_both_kinds_of_registry_get_that_one_commit(store, tmp_path):
    created = scaffold.create(NAME, tmp_path, store=store)
    assert created.made
    assert store.repo(NAME).commit == git(created.repo.root, "rev-parse", "HEAD")
    before = snapshot(created.repo.root)
    again = scaffold.create(NAME, tmp_path, store=store)
    assert not again.made
    assert snapshot(created.repo.root) == before
    assert_one_clean_commit(created.repo.root)


def test_github_becomes_the_origin_and_is_not_asked_for_anything_the_second_time(github, hub, tmp_path):
    root = scaffold.create(NAME, tmp_path, store=github).repo.root
    assert git(root, "remote", "get-url", "origin") == f"{github.repo(NAME).url}.git"
    asked = len(hub.requests)
    scaffold.create(NAME, tmp_path, store=github)
    assert {request.method for request in hub.requests[asked:]} == {"GET"}


def test_the_second_run_says_so_and_changes_nothing(mreg, tmp_path):
    flags = ("--dir", tmp_path, "--local", "--author", "Ada Lovelace")
    assert json.loads(mreg("new", NAME, *flags, "--json").stdout)["created"] is True
    before = snapshot(tmp_path / NAME)
    done = mreg("new", NAME, *flags)
    assert done.exit_code == 0
    assert "already there" in done.stderr
    assert done.stdout == f"{tmp_path / NAME}\n"
    assert snapshot(tmp_path / NAME) == before


def test_work_in_the_repository_is_no_reason_to_refuse(tmp_path):
    registry = FolderStore(tmp_path / "registry")
    root = scaffold.create(NAME, tmp_path, store=registry).repo.root
    (root / "README.md").write_text("mine\n")
    (root / "runs").mkdir()
    git(root, "commit", "--quiet", "--all", "--message", "More")
    assert not scaffold.create(NAME, tmp_path, store=registry).made
    assert (root / "README.md").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["model_sge_sc_t2", "model_seg_sc_t2w", "model_seg_SC_t2", "seg_sc", "../x", ""])
def test_a_name_that_is_not_strict_makes_nothing(mreg, tmp_path, name):
    done = mreg("new", name, "--dir", tmp_path / "models", "--registry", f"dir:{tmp_path / 'registry'}")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: name {name!r}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--licence", "GPL-3.0"), "MIT"),
        (("--recipe", "unet"), "there are: nnunet"),
        (("--author", "A\nB"), "Ada Lovelace"),
        (("--registry", "ftp:x"), "--registry dir:models"),
    ],
)
def test_bad_flags_make_nothing_and_say_what_there_is(mreg, tmp_path, flags, said):
    done = mreg("new", NAME, "--dir", tmp_path / "models", *flags, *([] if flags[0] == "--registry" else ["--local"]))
    assert done.exit_code == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_token_nothing_is_made(mreg, hub, tmp_path):
    done = mreg("new", NAME, "--dir", tmp_path / "models")
    assert done.exit_code == 1
    assert "GITHUB_TOKEN" in done.stderr
    assert not (tmp_path / "models" / NAME).exists()


def test_a_folder_with_other_content_is_refused_untouched(tmp_path):
    root = tmp_path / NAME
    root.mkdir()
    (root / "thesis.txt").write_text("years of work")
    before = snapshot(tmp_path)
    registry = FolderStore(tmp_path / "registry")
    with pytest.raises(ConflictError, match=r"thesis\.txt"):
        scaffold.create(NAME, tmp_path, store=registry)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("other", ["file", "link", "repo of something else", "repo of another model"])
def test_what_else_may_have_the_name_is_refused_untouched(tmp_path, other):
    root = tmp_path / NAME
    if other == "file":
        root.write_text("x")
    elif other == "link":
        (tmp_path / "else").mkdir()
        root.symlink_to(tmp_path / "else")
    else:
        root.mkdir()
        file = "notes.md" if other == "repo of something else" else "model.toml"
        (root / file).write_text('[model]\nname = "model_seg_gm_t2"\n')
        git(root, "init", "--quiet")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "--message", "x")
    before = snapshot(tmp_path)
    with pytest.raises(ConflictError, match=NAME):
        scaffold.create(NAME, tmp_path, store=None)
    assert snapshot(tmp_path) == before


def test_flags_that_contradict_what_is_there_are_refused(tmp_path):
    scaffold.create(NAME, tmp_path, store=None, licence="MIT")
    with pytest.raises(ConflictError, match=r"licence 'MIT' and not 'Apache-2\.0'"):
        scaffold.create(NAME, tmp_path, store=None, licence="Apache-2.0")


def test_a_model_that_the_registry_has_is_not_made_again(tmp_path):
    registry = FolderStore(tmp_path / "registry")
    scaffold.create(NAME, tmp_path / "a", store=registry)
    with pytest.raises(ConflictError, match="has that model already"):
        scaffold.create(NAME, tmp_path / "b", store=registry)
    assert list((tmp_path / "b").iterdir()) == []


def test_what_was_made_with_local_is_registered_by_a_run_without(tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None).repo.root
    head = git(root, "rev-parse", "HEAD")
    registry = FolderStore(tmp_path / "registry")
    assert not scaffold.create(NAME, tmp_path, store=registry).made
    assert registry.repo(NAME).commit == head


@pytest.mark.parametrize("broken_at", ["store.repo", "store.create_repo", "files", "commit", "rename", "store.push"])
def test_a_run_that_breaks_anywhere_is_completed_by_the_next(tmp_path, monkeypatch, broken_at):
    registry = FolderStore(tmp_path / "registry")

    def fail(*_args, **_keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        kind, _, method = broken_at.partition(".")
        if kind == "store":
            patch.setattr(FolderStore, {"push": "push_first_commit"}.get(method, method), fail)
        elif kind == "rename":
            patch.setattr("pathlib.Path.rename", fail)
        else:
            patch.setattr(scaffold, {"files": "write_text", "commit": "commit_files"}[kind], fail)
        with pytest.raises(KeyboardInterrupt):
            scaffold.create(NAME, tmp_path / "models", store=registry)
    left = [p.name for p in (tmp_path / "models").iterdir()]
    assert left == ([NAME] if broken_at == "store.push" else [])
    created = scaffold.create(NAME, tmp_path / "models", store=registry)
    assert_one_clean_commit(created.repo.root)
    assert registry.repo(NAME).commit == git(created.repo.root, "rev-parse", "HEAD")


def test_what_a_killed_run_left_is_swept_away(tmp_path):
    leftover = tmp_path / f".{NAME}.part"
    leftover.mkdir()
    (leftover / "README.md").write_text("half")
    scaffold.create(NAME, tmp_path, store=None)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("state", ["no git", "no commit", "some files", "empty folder", "git init by hand"])
def test_a_half_made_folder_is_completed(tmp_path, state):
    whole = scaffold.create(NAME, tmp_path / "whole", store=None).repo.root
    tree = git(whole, "rev-parse", "HEAD^{tree}")
    root = tmp_path / NAME
    root.mkdir()
    if state in ("no git", "no commit", "some files"):
        for name in FILES[:3] if state == "some files" else FILES:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((whole / name).read_bytes())
    if state in ("no commit", "git init by hand"):
        git(root, "init", "--quiet", "--initial-branch=trunk")
    assert scaffold.create(NAME, tmp_path, store=None).made
    assert_one_clean_commit(root)
    assert git(root, "rev-parse", "HEAD^{tree}") == tree


def test_a_second_process_waits_until_the_first_is_done(tmp_path):
    command = [sys.executable, "-P", "-m", "registry", "new", NAME, "--dir", str(tmp_path), "--local", "--json"]
    first = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=3)
        assert list(tmp_path.iterdir()) == []
        os.close(first)
        assert json.loads(second.communicate(timeout=60)[0])["created"] is True
    finally:
        second.kill()
        second.communicate()
    assert_one_clean_commit(tmp_path / NAME)


def test_the_commit_is_the_users_own_where_git_knows_them(tmp_path, monkeypatch):
    config = tmp_path / "gitconfig"
    config.write_text("[user]\nname = Grace\nemail = grace@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    root = scaffold.create(NAME, tmp_path, store=None, authors=("Ada Lovelace",)).repo.root
    assert git(root, "log", "--format=%an %ae %cn %ce") == "Grace grace@example.org Grace grace@example.org"
    assert config.read_text() == "[user]\nname = Grace\nemail = grace@example.org\n"


def test_where_git_knows_nobody_the_commit_names_no_machine(tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None, authors=("Ada Lovelace",)).repo.root
    assert git(root, "log", "--format=%an %ae %cn %ce") == "Ada Lovelace mreg@localhost Ada Lovelace mreg@localhost"
    assert "user" not in (root / ".git" / "config").read_text()


def test_the_card_says_what_the_name_says(tmp_path):
    root = scaffold.create("model_seg_sc-gm_mouse_ms_exvivo_t2-t2star", tmp_path, store=None).repo.root
    card = (root / "README.md").read_text()
    for part in (
        "spinal cord and grey matter",
        "T2-weighted MRI and T2*-weighted MRI",
        "mice, multiple sclerosis, ex vivo",
        "image_orientation",
        "sct_deepseg TASK -install -custom-url URL",
        "mreg data import",
        "CITATION.cff",
        f"{START}\n",
        END,
    ):
        assert part in card
    assert "$" not in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("licence", LICENCES)
def test_each_licence_names_the_holder_and_this_year(tmp_path, licence):
    root = scaffold.create(NAME, tmp_path, store=None, licence=licence, authors=("Ada Løvelace", "Bob")).repo.root
    text = (root / "LICENSE").read_text()
    assert f"{datetime.now().astimezone().year} Ada Løvelace and Bob" in text
    parts = {"MIT": "MIT License", "Apache-2.0": "END OF TERMS AND CONDITIONS", "CC-BY-4.0": "creativecommons.org"}
    assert parts[licence] in text
    assert model_toml.read(root / "model.toml").model.licence == licence
    assert model_toml.read(root / "model.toml").model.authors == ("Ada Løvelace", "Bob")


def test_the_citation_is_valid_cff(tmp_path):
    people = ("Ada King Lovelace", "van Rossum, Guido", "Bob", 'A "B" C')
    root = scaffold.create(NAME, tmp_path, store=None, authors=people).repo.root
    cff = yaml.safe_load((root / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert (cff["cff-version"], cff["title"], cff["license"], cff["type"]) == ("1.2.0", NAME, "MIT", "software")
    assert cff["authors"] == [
        {"family-names": "Lovelace", "given-names": "Ada King"},
        {"family-names": "van Rossum", "given-names": "Guido"},
        {"name": "Bob"},
        {"family-names": "C", "given-names": 'A "B"'},
    ]


def test_the_workflows_are_yaml_and_call_those_of_this_commit(tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None).repo.root
    rights = {"check": {"contents": "read"}}
    rights["release"] = {"contents": "write", "id-token": "write", "attestations": "write"}
    for kind, right in rights.items():
        workflow = yaml.safe_load((root / f".github/workflows/{kind}.yml").read_text())
        assert workflow["permissions"] == {}
        job = workflow["jobs"][kind]
        assert job["uses"] == f"ivadomed/mreg/.github/workflows/model-{kind}.yml@{origin.reference()}"
        assert job["permissions"] == right
        assert job["with"]["mreg"] == origin.reference()
    assert workflow["jobs"]["release"]["with"]["tag"] == "${{ inputs.tag }}"
    assert workflow["run-name"] == "release ${{ inputs.tag }}"


def test_data_runs_and_archives_stay_out_of_git(tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None).repo.root
    for folder in ("data/raw", "runs/x", "dist/r20260131"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("x")
    assert git(root, "status", "--porcelain") == ""


def test_every_term_of_the_vocabulary_has_a_word():
    for entry in names.load_vocabulary().terms():
        assert entry.field == "architecture" or entry.term in words.WORDS, entry.term


def test_without_git_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MregError, match="git is not installed"):
        scaffold.create(NAME, tmp_path, store=None)
    assert list(tmp_path.iterdir()) == []
