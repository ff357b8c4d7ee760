"""`mreg name` as a person and a program see it."""

import json
from pathlib import Path

import pytest

VECTORS = json.loads((Path(__file__).parent / "data" / "naming" / "names.json").read_text())


def test_json_is_the_list_of_vectors(mreg):
    result = mreg("name", "--json", "--", *(vector["name"] for vector in VECTORS["names"]))
    expected = [{key: value for key, value in vector.items() if key != "origin"} for vector in VECTORS["names"]]
    assert json.loads(result.stdout) == expected
    assert result.exit_code == 1  # some are invalid


def test_json_of_tags_is_the_list_of_vectors(mreg):
    result = mreg("name", "--json", "--tag", *(vector["tag"] for vector in VECTORS["tags"]))
    answers = json.loads(result.stdout)
    assert [{"tag": answer["tag"], "code": answer["code"]} for answer in answers] == VECTORS["tags"]
    assert all(bool(answer["message"]) == bool(answer["code"]) for answer in answers)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["model_seg_sc_t2"], 0),
        (["--strict", "model_seg_sc_t2"], 0),
        (["model_sc_t2"], 0),
        (["--strict", "model_sc_t2"], 1),
        (["model_seg_sc_t2", "model_seg_sc_t3"], 1),
        (["--tag", "r20240229"], 0),
        (["--tag", "r20240229", "r20230229"], 1),
        ([], 2),
        (["--colour", "x"], 2),
    ],
)
def test_exit_status(mreg, arguments, status):
    assert mreg("name", *arguments).exit_code == status


def test_text_shows_fields_defaults_and_forms(mreg):
    text = mreg("name", "model_seg_SC_t2").stdout
    rows = dict(line.split(maxsplit=1) for line in text.splitlines()[1:])
    assert rows["W_CASE"] == "SC: the vocabulary spells it with other capitals"
    assert rows["animal"] == "human (by default)"
    assert rows["contrast"] == "t2"
    assert rows["canonical"] == "model_seg_sc_t2"
    assert rows["short"] == "model_seg_t2"


def test_text_says_the_suggestion_and_the_dropped_words(mreg):
    text = mreg("name", "model-seg-ms-axial-t2w").stdout
    assert "did you mean model_seg_ms_t2?" in text
    assert "words that found no place: axial" in text


@pytest.mark.parametrize("text", ["\udcff", "a\nb\x1b[31m", "", " "])
def test_strange_text_is_shown_as_escapes(mreg, text):
    shown = mreg("name", text)
    assert shown.exit_code == 1
    assert "\x1b" not in shown.stdout
    assert json.loads(mreg("name", "--json", text).stdout)[0]["status"] == "invalid"


def test_a_projects_words_are_known_with_their_file(mreg, tmp_path):
    words = tmp_path / "words.json"
    words.write_text('{"fields": {"anatomy": {"extended": ["ligament"]}}}')
    assert mreg("name", "model_seg_ligament_t2").exit_code == 1
    assert mreg("name", "--strict", "--vocabulary", words, "model_seg_ligament_t2").exit_code == 0


def test_a_broken_vocabulary_is_one_clear_error(mreg, tmp_path):
    result = mreg("name", "--vocabulary", tmp_path / "absent.json", "model_seg_sc_t2")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"error: {tmp_path / 'absent.json'}: no such file\n"
