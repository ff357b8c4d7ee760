"""What a person at the terminal is told, and a log or a program is not."""

import json
import shlex

import pytest

from registry import output


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


def test_a_program_that_asks_for_json_is_told_nothing_else(mreg, tmp_path, monkeypatch, at_terminal):
    monkeypatch.chdir(tmp_path)
    assert mreg("new", "model_seg_sc_t2", "--local", "--json").stderr == ""
