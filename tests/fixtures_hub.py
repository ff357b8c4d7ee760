"""The loopback GitHub as fixtures."""

import pytest
from fakehub import FakeHub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A GitHub with the organisation ivadomed, at GITHUB_API_URL; nothing waits, `hub.sleeps` is how long it would."""
    from registry.stores import github_api

    with FakeHub(tmp_path / "hub") as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        pace = github_api.Pace(between_requests=0, between_writes=0, sleep=server.sleeps.append)
        monkeypatch.setattr(github_api, "PACE", pace)
        yield server


@pytest.fixture
def hub_token(hub, monkeypatch):
    """A token that may do everything, as GITHUB_TOKEN."""
    monkeypatch.setenv("GITHUB_TOKEN", hub.token)
    return hub.token
