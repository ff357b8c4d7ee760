"""What nobody means to write and somebody does: a value or one `MregError`, and never a traceback."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry import model_toml, names, orientation, refs, sources
from registry.cli import VERBS, group
from registry.errors import MregError
from registry.files import expanded, naming, read_json, read_object
from registry.runs import latest_run, read_run
from registry.splits import read_splits
from registry.stores import Release, canonical_location
from registry.stores.contract import newest_first

WORDS = (
    "", ".", "..", "-", "@", "a@", "@b", "a@b@c", "a/b", "~nobody/x", "\udcff", "\x1b[31m", "²", "\uff41",
    "name\nwith",
    "https://[", "https://a:x/", "file:///", "dir:", "dir:~nobody", "github:", "x" * 300, "CON", "{}", "%00",
)  # fmt: skip
# Verbs with the arguments that a strange word takes the place of.
CALLS = (
    ("name", "?"), ("name", "--tag", "?"), ("fetch", "?"), ("show", "?"), ("sct", "?"), ("verify", "?"), ("check", "?"),
    ("diff", "?", "?"), ("yank", "?", "--reason", "?"), ("mirror", "?", "--to", "?"), ("mirror", "m@r1", "--to", "?"),
    ("list", "--task", "?"), ("list", "--registry", "?"), ("package", "?"), ("release", "?"), ("predict", "?", "?"),
    ("evaluate", "?", "?"), ("sign", "?"), ("sign", ".", "--key", "?"), ("train", "?"), ("train", "--from", "?"),
    ("data", "verify", "?"), ("data", "import", "?", "out", "--dataset-id", "1"), ("draft", "fetch", "?", "-o", "out"),
)  # fmt: skip


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder to stand in, a registry that is empty, and no network."""
    (tmp_path / "registry").mkdir()
    monkeypatch.setenv("MREG_REGISTRY", f"dir:{tmp_path / 'registry'}")
    monkeypatch.setenv("MREG_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_strange_words_on_the_command_line_are_errors_and_no_tracebacks(call, nowhere):
    assert call[0] in VERBS
    for word in WORDS:
        arguments = [word if part == "?" else part for part in call]
        result = CliRunner().invoke(group, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert result.exit_code in (0, 1, 2)


@given(st.text(max_size=30) | st.from_regex(r"(https?|file|dir|~|@)[:/@]*\S{0,10}", fullmatch=True))
@settings(max_examples=100, deadline=None)
@example("https://[::1")
@example("~nobody/x")
@example("http://localhost:99999/a.zip")
def test_any_text_is_a_ref_or_one_error(text):
    for parse in (refs.parse, canonical_location, expanded, refs.require_safe):
        try:
            parse(text)
        except (MregError, OSError):  # a name too long for the system
            continue
    assert isinstance(sources.name_in(text), str)


@given(st.lists(st.text(alphabet="r²\u06631v.-_x", max_size=6), max_size=4))
@example(["²", "r20260131", "1"])
def test_any_tags_have_an_order(tags):
    releases = [Release(id=str(n), repo="x", tag=tag, title="", notes="", draft=False) for n, tag in enumerate(tags)]
    assert sorted(r.tag for r in newest_first(releases)) == sorted(tags)
    assert newest_first(releases) == newest_first(releases[::-1])


@given(st.text(max_size=110))
@example("r²0260131")
@example("r\u0662\u0660\u0662\u0666\u0660\u0661\u0663\u0661")
def test_any_text_is_judged_as_a_name_a_tag_and_an_orientation(text):
    result = names.parse(text)
    assert (result.canonical is None) == (result.status == "invalid")
    if names.check_tag(text) is None:
        assert text.isascii()
    if orientation.is_valid(text):
        assert orientation.from_nibabel(orientation.to_nibabel(text)) == text


JSON = {
    "empty": b"", "half": b'{"a": ', "words": b"hello", "not UTF-8": b'{"a": "\xff"}', "zeros": bytes(8),
    "a number of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}", "nested without end": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", JSON)
def test_what_is_no_json_is_one_error_that_names_the_file(kind, tmp_path):
    (tmp_path / "a.json").write_bytes(JSON[kind])
    with pytest.raises(MregError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")


def test_json_of_windows_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{\r\n"a": 1\r\n}\r\n')
    assert read_object(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_bytes(b"[1]")
    with pytest.raises(MregError, match="not a JSON object"):
        read_object(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["x = ", "a = " + "9" * 5000, "a = " + "[" * 10_000, "\ufeffa = 1", "a = 1\na = 2"])
def test_what_is_no_toml_is_one_error(text, tmp_path):
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    with pytest.raises(MregError, match=r"model\.toml: not TOML"):
        model_toml.read(tmp_path / "model.toml")


def test_a_config_file_that_cannot_be_read_is_one_error(tmp_path, monkeypatch):
    path = tmp_path / "config" / "mreg" / "config.toml"
    path.parent.mkdir(parents=True)
    for data in (b"registry = 5", b"registry = \xff", b"registry = " + b"[" * 10_000, b"registry = " + b"9" * 5000):
        path.write_bytes(data)
        with pytest.raises(MregError, match=r"config\.toml"):
            canonical_location()


def test_a_user_without_a_home_folder_is_told_what_to_set(tmp_path, monkeypatch):
    from registry import cache

    monkeypatch.delenv("MREG_CACHE")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", _homeless)
    assert canonical_location() == "github:ivadomed"
    with pytest.raises(MregError, match="home") as caught:
        cache.root()
    assert "HOME" in caught.value.hint


def _homeless(path):
    raise RuntimeError("Could not determine home directory.")


CONFIG = {
    "recipe": "nnunet", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "2d", "repo": "model_sc",
    "settings": {"folds": [0]}, "dataset": {"name": "Dataset501_Sc"},
}  # fmt: skip
BROKEN_CONFIGS = (
    [], None, {}, *({**CONFIG, key: None} for key in CONFIG), {**CONFIG, "settings": {"folds": 3}},
    {**CONFIG, "settings": {"folds": [None]}},
)  # fmt: skip


def write_run(folder, config):
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"")
    (folder / "plans.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(config))


def test_a_run_with_a_broken_config_is_one_error_and_no_obstacle_to_others(tmp_path, capsys):
    write_run(tmp_path / "good", CONFIG)
    for number, config in enumerate(BROKEN_CONFIGS):
        write_run(tmp_path / f"broken{number}", config)
        with pytest.raises(MregError, match=rf"broken{number}/config\.json"):
            read_run(tmp_path / f"broken{number}")
    assert latest_run(tmp_path).path == tmp_path / "good"
    assert capsys.readouterr().err.count("passed over") == len(BROKEN_CONFIGS)


@pytest.mark.parametrize("document", [None, {}, 3, [None], [{"train": ["a"]}], [{"train": "ab", "val": []}], [[1]]])
def test_splits_that_are_none_are_one_error(document, tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps(document))
    with pytest.raises(MregError, match=r"splits_final\.json: fold 0 is not two lists"):
        read_splits(tmp_path / "splits_final.json")


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path):
    full = Path("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught, naming(tmp_path / "a.zip"), full.open("wb") as file:
        file.write(b"x")
    assert caught.value.filename == str(tmp_path / "a.zip")
