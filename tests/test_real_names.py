"""Names that repositories of models have: what mreg says of each, by `mreg name` and in a repo by `mreg check`."""

import json
from collections import Counter
from pathlib import Path

import pytest

NAMES = json.loads((Path(__file__).parent / "data" / "naming" / "real_names.json").read_text())
CODES = {"valid": set(), "warn": {"NAME002"}, "invalid": {"NAME001"}}
EXIT = {"valid": 0, "warn": 0, "invalid": 1}


def test_of_the_real_names_six_are_valid_and_five_nearly():
    assert Counter(row["verdict"] for row in NAMES) == {"valid": 6, "warn": 5, "invalid": 28}
    assert len({row["name"] for row in NAMES}) == 39


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_mreg_name_gives_verdict_and_suggestion(row, mreg):
    result = mreg("name", row["name"], "--json")
    (found,) = json.loads(result.stdout)
    assert found["status"] == row["verdict"]
    assert (found["canonical"] or found["suggestion"]) == row["better"]
    assert found["dropped"] == row["left_out"]
    assert result.exit_code == EXIT[row["verdict"]]


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_mreg_check_gives_verdict_and_suggestion(row, mreg, tmp_path):
    repo = tmp_path / row["name"]
    repo.mkdir()
    (repo / "model.toml").write_text(f'[model]\nname = "{row["name"]}"\n')
    report = json.loads(mreg("check", repo, "--json").stdout)
    found = [finding for finding in report["findings"] if finding["code"] in ("NAME001", "NAME002")]
    assert {finding["code"] for finding in found} == CODES[row["verdict"]]
    for finding in found:
        assert (finding["path"], finding["line"]) == ("model.toml", 2)
        assert row["better"] is None or row["better"] in finding["hint"]
        assert all(word in finding["hint"] for word in row["left_out"] if row["better"])
    assert report["ok"] == (row["verdict"] != "invalid")


def test_a_name_can_be_exempt_with_a_reason(mreg, tmp_path):
    repo = tmp_path / "model-canal-seg"
    repo.mkdir()
    text = (
        '[model]\nname = "model-canal-seg"\nexempt = "SCT downloads it under this name"\nprevious_names = ["canal"]\n'
    )
    (repo / "model.toml").write_text(text)
    report = json.loads(mreg("check", repo, "--json").stdout)
    assert report["ok"]
    (found,) = [finding for finding in report["findings"] if finding["code"].startswith("NAME")]
    assert (found["code"], found["level"], found["line"]) == ("NAME007", "note", 3)
    assert "SCT downloads it under this name" in found["message"]
    assert "model_seg_canal" in found["hint"]


def test_a_folder_that_has_a_former_name_is_told_so(mreg, tmp_path):
    repo = tmp_path / "t2_sc"
    repo.mkdir()
    (repo / "model.toml").write_text('[model]\nname = "model_seg_sc_t2"\nprevious_names = ["t2_sc"]\n')
    report = json.loads(mreg("check", repo, "--json").stdout)
    (found,) = [finding for finding in report["findings"] if finding["code"] == "NAME003"]
    assert "was called before" in found["message"]
