"""Fixtures that more than one test module uses."""

import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fixtures_dataset import trained_repo  # noqa: F401 - a fixture
from fixtures_encoder import tiny_encoder, tiny_encoder_package  # noqa: F401 - fixtures
from fixtures_hub import hub, hub_token  # noqa: F401 - fixtures
from fixtures_release import (  # noqa: F401 - fixtures
    no_torch,
    no_waiting,
    packed_repo,
    registry,
    released,
    released_github,
    tiny_package,
)
from fixtures_run import repo_with_run, tiny_run  # noqa: F401 - fixtures
from fixtures_stores import github, store, worktree  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Give each of pytest-xdist's processes its own processors: threads of two on the same ones wait for one another.

    What a test starts inherits them.
    """
    worker = getattr(config, "workerinput", None)
    if worker and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        os.sched_setaffinity(0, processors[number::count] or processors)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of long tests, so that no process is left with one of them at the end."""
    long = Counter(item.path for item in items if item.get_closest_marker("long"))
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of small real MRI data sets; skip where it is absent."""
    folder = Path(os.environ.get("MREG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real MRI data: set MREG_TEST_DATA")
    return folder.resolve()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a developer's tokens, registry and cache out of the tests."""
    for name in list(os.environ):
        if name.startswith(("MREG_", "nnUNet_", "GITHUB_", "GH_")) and name != "MREG_TEST_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def _stay_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a test asks for another machine: what waits for an answer that never comes only seems slow."""
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        assert name in (None, "", "localhost", "::1") or str(name).startswith("127."), f"a test asks for {name}"
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture
def mreg():
    """Call the command line in this process: `mreg("name", "model_seg_sc_t2").stdout`."""
    from registry.cli import group

    def call(*args: object) -> Result:
        return CliRunner().invoke(group, [str(a) for a in args], catch_exceptions=False)

    return call
