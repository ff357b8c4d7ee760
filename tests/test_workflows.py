"""What runs on GitHub: pinned, without rights it does not need, and the same commands as on a desk."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from registry import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_what_it_uses_and_has_no_more_rights_than_it_says(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert set(job["permissions"]) == {"contents"}
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
            assert "${{" not in step.get("run", ""), "a value in a script is code: pass it through env"
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("kind", ["check", "release"])
def test_a_models_workflows_install_this_version_without_torch(kind):
    text = (ROOT / ".github" / "workflows" / f"model-{kind}.yml").read_text()
    inputs = yaml.safe_load(text)[True]["workflow_call"]["inputs"]  # YAML 1.1 reads `on` as true
    assert inputs["mreg"]["default"] == f"v{__version__}"
    assert "mreg[" not in text


def test_a_draft_is_published_after_the_check():
    steps = yaml.safe_load((ROOT / ".github/workflows/model-release.yml").read_text())["jobs"]["release"]["steps"]
    scripts = [step.get("run", "") for step in steps]
    order = [
        next(i for i, s in enumerate(scripts) if part in s)
        for part in ("release download", 'mreg" check', "--draft=false")
    ]
    assert order == sorted(order)


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    demo, tests = re.findall(r"^python3\.11 -m venv .*$", readme, re.MULTILINE)
    assert f"run: {demo}\n" in (ROOT / ".github/workflows/ci.yml").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in tests.split(" && "):
        assert command in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_version_is_the_same_everywhere():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
