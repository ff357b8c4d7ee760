"""What a person at the terminal is told, and a log or a program is not."""

import json
import shlex
import zipfile
from pathlib import Path

import pytest

from registry import output
from registry.commands import train
from registry.model_toml import find_repo
from registry.runs import Run


@pytest.fixture
def at_terminal(monkeypatch):
    monkeypatch.setattr(output, "is_terminal", lambda: True)


def test_a_person_is_told_what_comes_next_and_a_log_is_not(mreg, tmp_path, monkeypatch, at_terminal):
    monkeypatch.chdir(tmp_path)
    made = mreg("new", "model_seg_sc_t2", "--local", "--dir", "my models")
    assert made.stdout == f"{tmp_path / 'my models' / 'model_seg_sc_t2'}\n"
    first, second = made.stderr.splitlines()
    assert shlex.split(first) == ["next:", "cd", made.stdout.strip()]
    assert second.startswith("then: mreg data import ")
    assert json.loads(mreg("new", "model_seg_t2", "--local", "--json").stdout)["created"] is True
    monkeypatch.setattr(output, "is_terminal", lambda: False)
    assert mreg("new", "model_seg_gm_t2", "--local").stderr == ""


def test_what_is_told_within_a_stage_stands_above_its_spinner(at_terminal, monkeypatch, capfd):
    """Another line, a stage within and another process find a terminal without a spinner, which goes on afterwards."""
    seen = []
    monkeypatch.setattr("rich.status.Status.start", lambda self: seen.append("on"))
    monkeypatch.setattr("rich.status.Status.stop", lambda self: seen.append("off"))
    with output.stage("outer"):
        output.warn("look")
        with output.stage("inner"):
            pass
        with output.pause():
            seen.append("another process")
    assert seen == ["on", *["off", "on"] * 2, "off", "another process", "on", "off"]
    assert [line.split(":")[0] for line in capfd.readouterr().err.splitlines()] == ["warning", "inner", "outer"]
    with pytest.raises(ValueError, match="stop"), output.stage("one that fails"):
        raise ValueError("stop")
    output.say("after it")
    assert seen[-2:] == ["on", "off"]


def test_a_program_that_asks_for_json_is_told_nothing_else(mreg, tmp_path, monkeypatch, at_terminal):
    monkeypatch.chdir(tmp_path)
    assert mreg("new", "model_seg_sc_t2", "--local", "--json").stderr == ""


def test_after_a_training_a_person_is_told_how_to_measure_it(mreg, tmp_path, monkeypatch, at_terminal, capsys):
    monkeypatch.chdir(tmp_path)
    repo = find_repo(Path(mreg("new", "model_seg_sc_t2", "--local").stdout.strip()))
    config = {"recipe": "nnunet", "dataset": {"path": "data/raw/Dataset501_Sc"}}
    train._tell_next(repo, Run(repo.runs / "a run", config), cropped=False)
    first, *_ = capsys.readouterr().err.splitlines()
    run, dataset = "model_seg_sc_t2/runs/a run", "model_seg_sc_t2/data/raw/Dataset501_Sc"
    assert shlex.split(first) == ["next:", "mreg", "evaluate", run, dataset]
    train._tell_next(repo, Run(repo.runs / "a run", {"recipe": "pretrain"}), cropped=False)
    assert "evaluate" not in capsys.readouterr().err


def test_after_a_fetch_a_person_is_told_how_to_run_what_was_fetched(mreg, tmp_path, monkeypatch, at_terminal):
    archive = tmp_path / "model_seg_sc_t2-r20261121.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("nnUNetTrainer__nnUNetPlans__2d/plans.json", "{}")
    unpacked = mreg("fetch", archive, "--unpack", "-o", tmp_path / "my models")
    assert unpacked.exit_code == 0, unpacked.stderr
    words = shlex.split(unpacked.stderr.splitlines()[-1])
    assert words == ["next:", "mreg", "predict", unpacked.stdout.strip(), "IMAGE.nii.gz", "-o", "predictions"]
