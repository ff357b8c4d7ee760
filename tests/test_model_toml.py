"""model.toml: what is refused, and that file, page and schema say the same."""

import importlib.util
import tomllib
from pathlib import Path

import pytest
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
