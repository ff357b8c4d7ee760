"""Workflows as they stand, run by act on this machine: no docker, no network, GitHub's own actions replaced by stubs.

What act does not enforce: `permissions`, `concurrency`, OIDC. tests/test_workflows.py reads those.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakehub.actions import add_job, progress

if TYPE_CHECKING:
    from fakehub import FakeHub

ROOT = Path(__file__).parents[1]
STUBS = Path(__file__).parent / "stubs"
SOURCES = (
    "registry", "trainers", "schemas", "pyproject.toml", "constraints.txt", "hatch_build.py", "LICENSE", "README.md",
)  # fmt: skip


@dataclass
class Job:
    """What came of one job."""

    name: str
    result: str = ""
    failed: str = ""  # the first step that did
    errors: list[dict[str, str]] = field(default_factory=list)  # annotations: message, title, file, line


@dataclass
class Done:
    """What came of a workflow."""

    ok: bool
    jobs: dict[str, Job]
    log: str
    summary: str


class Act:
    """Runs workflows of a model's repository; `env` is what GitHub would set."""

    def __init__(self, work: Path, **env: str) -> None:
        self.work = work
        for name in ("home", "tmp", "artifacts"):
            (work / name).mkdir(parents=True, exist_ok=True)
        self.source = work / "mreg"
        if not self.source.exists():
            _copy_sources(self.source)
        packages = sysconfig.get_path("purelib")
        self.env = {
            "MREG_UNDER_TEST": str(self.source),
            "ARTIFACTS": str(work / "artifacts"),
            # pip finds what is installed here and needs no network; the mreg of the jobs is the one that they install.
            "PYTHONPATH": packages,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(_write_argparse(work / "wheels")),
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying yes
            "PIP_NO_COMPILE": "1",  # faster
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "MREG_CACHE": str(work / "cache"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **env,
        }

    def run(self, repo: Path, event: str, workflow: str, **inputs: str) -> Done:
        """Run one workflow of the working copy `repo`."""
        command = [sysconfig.get_path("scripts") + "/act", event, "--json", "-W", f".github/workflows/{workflow}"]
        command += ["-P", "ubuntu-24.04=-self-hosted", "-s", f"GITHUB_TOKEN={self.env.get('HUB_TOKEN', '')}"]
        for key, value in inputs.items():
            command += ["--input", f"{key}={value}"]
        for key, value in self.env.items():
            command += ["--env", f"{key}={value}"]
        for action, folder in self._replaced(repo).items():
            command += ["--local-repository", f"https://github.com/{action}={folder}"]
        environment = {"HOME": str(self.work / "home"), "PATH": self.env["PATH"], "TMPDIR": str(self.work / "tmp")}
        done = subprocess.run(
            command, cwd=repo, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return _read(done)

    def _replaced(self, repo: Path) -> dict[str, Path]:
        """Return what act must not fetch: mreg's workflows at the commit that the caller names, GitHub's actions."""
        own = "".join(path.read_text() for path in (repo / ".github/workflows").glob("*.yml"))
        called = set(re.findall(r"(ivadomed/mreg)/\S+@(\S+)", own))
        theirs = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("model-*.yml"))
        used = set(re.findall(r"uses: actions/(\S+)@(\S+)", theirs))
        found = {f"{name}@{sha}": self.source for name, sha in called}
        return found | {f"actions/{name}@{sha}": STUBS / name for name, sha in used}


def _copy_sources(target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    (target / ".github").mkdir(parents=True)
    shutil.copytree(ROOT / ".github/workflows", target / ".github/workflows")
    for name in SOURCES:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, target / name, **({"ignore": ignore} if path.is_dir() else {}))


def _write_argparse(folder: Path) -> Path:
    """Write a wheel without content: an old library asks for argparse, and pip does not see that Python brings it."""
    folder.mkdir(exist_ok=True)
    info = "argparse-1.4.0.dist-info"
    with zipfile.ZipFile(folder / "argparse-1.4.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: argparse\nVersion: 1.4.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def _read(done: subprocess.CompletedProcess[str]) -> Done:
    jobs: dict[str, Job] = {}
    summary = []
    for line in done.stdout.splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        name = entry.get("job", "").rpartition("/")[2].strip()
        if not name:
            continue
        job = jobs.setdefault(name, Job(name))
        if "jobResult" in entry:
            job.result = entry["jobResult"]
        if entry.get("stepResult") == "failure" and not job.failed:
            job.failed = entry["step"]
        if entry.get("command") == "error":
            job.errors.append({"message": entry["arg"], **(entry.get("kvPairs") or {})})
        if entry.get("command") == "summary":
            summary.append(entry.get("content", ""))
    return Done(ok=done.returncode == 0, jobs=jobs, log=done.stdout + done.stderr, summary="\n".join(summary))


def runner(act: Act, hub: FakeHub, repo: dict[str, Any], run: dict[str, Any]) -> Done:
    """Run a dispatched workflow on a clone of the default branch, as a machine of GitHub's would."""
    progress(hub, run, "in_progress")
    clone = act.work / f"clone-{run['id']}" / repo["name"]
    _check_out(hub, repo, clone)
    shutil.rmtree(act.work / "artifacts")
    (act.work / "artifacts").mkdir()
    done = act.run(clone, "workflow_dispatch", run["workflow"], **run["inputs"])
    for job in done.jobs.values():
        if job.result:
            notes = tuple(
                (e.get("title", ""), e["message"], e.get("file", ""), int(e.get("line", 1))) for e in job.errors
            )
            add_job(hub, run, job.name, job.result, job.failed, notes)
    progress(hub, run, "completed", "success" if done.ok else "failure")
    return done


def _check_out(hub: FakeHub, repo: dict[str, Any], target: Path) -> None:
    git = hub.git(repo)
    sha = git.ref(f"refs/heads/{repo['default_branch']}")
    for path, (_, blob) in git.files(git.commit(sha)["tree"]).items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(git.read(blob, "blob"))
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    address = f"https://github.com/{repo['owner']}/{repo['name']}"
    for words in (
        ["init", "--quiet", f"--initial-branch={repo['default_branch']}"], ["add", "--all"],
        ["commit", "--quiet", "--message=clone"], ["remote", "add", "origin", address],
    ):  # fmt: skip
        subprocess.run(["git", *who, "-C", str(target), *words], check=True, env=environment, capture_output=True)
