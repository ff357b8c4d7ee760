"""`mreg doctor`: what it finds on this machine and at the registry."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from registry import doctor
from registry.cli import group


def points(*arguments: str) -> tuple[int, dict[str, dict]]:
    done = CliRunner().invoke(group, ["doctor", "--json", *arguments], catch_exceptions=False)
    return done.exit_code, {point["name"]: point for point in json.loads(done.stdout)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MREG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    return f"dir:{tmp_path / 'models'}"


def test_a_whole_installation_is_described(folder) -> None:
    _, found = points("--registry", folder)
    assert found["Python"]["state"] == "good"
    assert "nnunetv2 2." in found["training"]["found"]
    assert "cores" in found["device"]["found"] or "GB free" in found["device"]["found"]
    assert "GB free" in found["disk"]["found"]
    assert found["registry"] == {"name": "registry", "state": "good", "found": folder, "mend": ""}
    assert "token" not in found


def test_what_is_missing_comes_with_the_command_that_mends_it(folder, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a))
    monkeypatch.setenv("PATH", "/nowhere")
    code, found = points("--registry", f"{folder}/none")
    assert code == 1
    assert found["training"]["mend"] == 'pip install "mreg[train]"'
    assert found["git"]["state"] == "bad"
    assert found["gh"]["state"] == "missing"
    assert found["registry"]["mend"].startswith("mkdir -p ")
    assert "device" not in found


def test_the_token_is_asked_for_its_rights(hub, monkeypatch, folder) -> None:
    monkeypatch.setattr(doctor, "_training", list)  # torch takes seconds to tell of its device
    _, found = points("--registry", f"github:{hub.org}")
    assert found["token"]["state"] == "missing"
    assert "GITHUB_TOKEN" in found["token"]["mend"]
    monkeypatch.setenv("GITHUB_TOKEN", hub.token)
    _, found = points("--registry", f"github:{hub.org}")
    assert "of 5000 requests left" in found["registry"]["found"]
    assert found["token"]["state"] == "good"
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_wrong")
    done = CliRunner().invoke(group, ["doctor", "--registry", f"github:{hub.org}"])
    assert done.exit_code == 1
    assert "!! registry" in done.stdout
    assert "ghp_wrong" not in done.output
