"""What runs on GitHub: pinned, without rights it does not need, and the same commands as on a desk."""

import json
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from registry import __version__, origin, scaffold

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = Path(sysconfig.get_path("scripts"))
# Job → the rights that it has, and needs.
RIGHTS = {
    "download": {"contents": "write"},  # drafts are shown to those who may push
    "check": {"contents": "read"},
    "attest": {"id-token": "write", "attestations": "write"},
    "publish": {"contents": "write"},
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Every workflow of ours, and those that `mreg new` writes, as a repository has them."""
    root = scaffold.create("model_seg_sc_t2", tmp_path_factory.mktemp("new"), store=None).repo.root
    generated = sorted((root / ".github" / "workflows").glob("*.yml"))
    assert len(generated) == 2
    return [*WORKFLOWS, *generated]


def lint(program, *arguments):
    done = subprocess.run([SCRIPTS / program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def zizmor(*paths):
    """Return the findings of medium severity or above, those that a comment hides among them."""
    _, answer, said = lint("zizmor", "--offline", "--no-ignores", "--format=json", *map(str, paths))
    assert "completed" in said
    return [f"{f['ident']}: {f['desc']}" for f in json.loads(answer)
            if f["determinations"]["severity"] in ("Medium", "High")]  # fmt: skip


def test_zizmor_finds_nothing_of_medium_or_above_in_what_we_ship_and_generate(shipped):
    assert zizmor(*shipped) == []


def test_zizmor_does_find_what_is_wrong(tmp_path, shipped):
    text = next(path for path in shipped if path.name == "check.yml").read_text()
    path = tmp_path / ".github" / "workflows" / "check.yml"
    path.parent.mkdir(parents=True)
    path.write_text(re.sub(r"@[0-9a-f]{40} .*", "@main", text))
    assert any("unpinned-uses" in finding for finding in zizmor(path))


def test_actionlint_and_the_schema_of_workflows_accept_what_we_ship_and_generate(shipped):
    assert lint("actionlint", "-shellcheck=", "-pyflakes=", *map(str, shipped)) == (0, "", "")
    code, answer, _ = lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, shipped))
    assert code == 0, answer


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_what_it_uses_and_has_no_more_rights_than_it_says(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == RIGHTS.get(name, {"contents": "read"})
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
            assert "${{" not in step.get("run", ""), "a value in a script is code: pass it through env"
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_version_of_an_action_stands_beside_its_commit(path):
    uses = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert uses
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in uses)


def test_only_the_job_that_runs_the_model_installs_torch_and_it_can_write_nothing():
    jobs = yaml.safe_load((ROOT / ".github/workflows/model-release.yml").read_text())["jobs"]
    heavy = [name for name, job in jobs.items() if any("mreg[train]" in s.get("run", "") for s in job["steps"])]
    assert heavy == ["check"]
    assert "write" not in jobs["check"]["permissions"].values()
    check = yaml.safe_load((ROOT / ".github/workflows/model-check.yml").read_text())
    assert check[True]["workflow_call"]["inputs"]["run"]["default"] is False  # YAML 1.1 reads `on` as true


def test_a_draft_is_published_after_check_and_attestation():
    jobs = yaml.safe_load((ROOT / ".github/workflows/model-release.yml").read_text())["jobs"]
    assert jobs["check"]["needs"] == "download"
    assert jobs["attest"]["needs"] == ["download", "check"]
    assert jobs["publish"]["needs"] == ["download", "check", "attest"]
    assert all(word in jobs["publish"]["if"] for word in ("!failure()", "!cancelled()", "check.result == 'success'"))


def test_a_generated_workflow_is_pinned_to_a_commit_wherever_one_is_known(shipped):
    if not origin.commit():
        pytest.skip("sources without git")
    for path in shipped[len(WORKFLOWS) :]:
        assert f"@{origin.commit()} # v{__version__}\n" in path.read_text()


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
