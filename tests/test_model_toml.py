"""model.toml: what is refused, and that file, page and schema say the same."""

import copy
import importlib.util
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from registry import keys
from registry.errors import MregError, NotFoundError
from registry.model_toml import find_repo, read, validate

ROOT = Path(__file__).parents[1]
MODEL = {"name": "model_seg_sc_t2"}
SCHEMA = Draft202012Validator(keys.schema())


def test_the_file_of_a_new_repo_reads_back_with_the_defaults(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(keys.toml_text({("model", "name"): "model_seg_sc_t2"}))
    assert read(path) == validate({"model": MODEL})


def test_every_key_has_a_comment_and_stands_in_the_file():
    lines = keys.toml_text(keys.EXAMPLE).splitlines()
    for key in keys.keys("nnunet"):
        assert key.meaning, key
        here = next(i for i, line in enumerate(lines) if line.lstrip("#").startswith(f"{key.name} ="))
        assert lines[here - 1].startswith(f"# {key.meaning}")


def test_each_setting_that_is_a_comment_may_be_uncommented():
    text = keys.toml_text(keys.EXAMPLE)
    lines = [line[1:] if line.startswith("#") and line[1:2].strip() and "as nnU-Net" not in line else line
             for line in text.splitlines()]  # fmt: skip
    document = tomllib.loads("\n".join(lines))
    assert document["train"]["configuration"] == "3d_fullres"
    assert document["train"]["seed"] == 12345
    assert validate(document).train.settings["folds"] == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {**MODEL, "licens": "MIT"}}, "unknown key 'model.licens'"),
        ({"model": MODEL, "modle": {}}, "unknown key 'modle'"),
        ({"model": MODEL, "train": {"epoch": 5}}, "epoch"),
        ({"model": MODEL, "train": {"recipe": "nope"}}, "there are: nnunet"),
        ({"model": MODEL, "train": {"configuration": "4d"}}, "4d"),
        ({"model": MODEL, "release": {"layout": "flat"}}, "'flat'"),
        ({"model": MODEL, "release": {"variant": "../x"}}, "'../x'"),
        ({}, "model"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_by_the_schema(change, said):
    with pytest.raises(MregError) as caught:
        validate(change)
    assert said in caught.value.message
    assert not SCHEMA.is_valid(change)


def test_all_problems_are_one_error():
    with pytest.raises(MregError) as caught:
        validate({"model": {"name": "model_sge_sc_t2", "colour": 1}, "release": {"tags": "month"}})
    for part in ("colour", "release.tags", "did you mean model_seg_sc_t2"):
        assert part in caught.value.message


def test_an_unknown_key_stops_a_command_with_the_files_name(tmp_path, mreg):
    (tmp_path / "model.toml").write_text('[model]\nname = "model_seg_sc_t2"\nlicens = "MIT"\n')
    done = mreg("train", tmp_path)
    assert done.exit_code == 1
    assert f"{tmp_path / 'model.toml'}: unknown key 'model.licens'" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.toml"]


@pytest.mark.parametrize("content", [b"[model\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_one_error(tmp_path, content):
    (tmp_path / "model.toml").write_bytes(content)
    with pytest.raises(MregError, match="not TOML"):
        read(tmp_path / "model.toml")


def test_a_repo_is_found_from_a_folder_below_it(tmp_path):
    (tmp_path / "model.toml").write_text(keys.toml_text(keys.EXAMPLE))
    (tmp_path / "runs" / "x").mkdir(parents=True)
    assert find_repo(tmp_path / "runs" / "x").root == tmp_path.resolve()
    with pytest.raises(NotFoundError, match=r"no model\.toml here or above"):
        find_repo(tmp_path.parent)


def test_the_generated_page_and_schema_are_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.generated().items():
        assert path.read_text() == text, "python docs/generate.py"


WHOLE = tomllib.loads(keys.toml_text(keys.EXAMPLE))
WHOLE["train"] |= {
    "planner": "resenc_m", "trainer": "nnUNetTrainer", "folds": [0, "all"], "epochs": 5, "batch_size": 2,
    "patch_size": [16, 16, 16], "features": [4, 8, 16], "initial_lr": 0.01, "seed": 1, "workers": 0, "compile": True,
    "checkpoint_minutes": 2.5, "trackers": ["wandb"],
}  # fmt: skip
ODD = [True, 1, 0, -1, 1.0, 1.5, "", "x", "1", [], [1], ["a"], {}, {"a": 1}]


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


# The name is judged by the naming convention, which no schema can hold.
PLACES = [path for path in places(WHOLE) if path and path != ("model", "name")]


def accepted(document):
    try:
        validate(document)
    except MregError:
        return False
    return True


def test_a_whole_file_passes_the_schema_and_the_model():
    assert accepted(WHOLE)
    assert SCHEMA.is_valid(WHOLE)


@given(path=st.sampled_from(PLACES), how=st.sampled_from(["replace", "remove", "add"]), value=st.sampled_from(ODD))
@settings(max_examples=300, deadline=None)
def test_schema_and_model_give_the_same_verdict(path, how, value):
    document = copy.deepcopy(WHOLE)
    place = document
    for key in path[:-1]:
        place = place[key]
    if how == "remove":
        del place[path[-1]]
    elif how == "add" and isinstance(place, dict):
        place["another"] = value
    else:
        place[path[-1]] = value
    assert accepted(document) == SCHEMA.is_valid(document), (path, how, value)


@pytest.mark.parametrize("text", ["epochs = true", 'epochs = "5"', "compile = 1", "seed = 2026-01-31"])
def test_no_value_is_converted(text):
    with pytest.raises(MregError, match=text.partition(" ")[0] if "-" not in text else "a date or time"):
        validate(tomllib.loads(f'[model]\nname = "model_seg_sc_t2"\n[train]\n{text}\n'))
