"""mreg knows which commit it is, however it came to be here."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from registry import __version__, origin

ROOT = Path(__file__).parents[1]
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _forget():
    origin.commit.cache_clear()
    yield
    origin.commit.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package without any trace of its commit."""
    folder = tmp_path / "site-packages" / "registry"
    folder.mkdir(parents=True)
    monkeypatch.setattr(origin, "PACKAGE", folder)
    monkeypatch.setattr(origin.metadata, "distribution", lambda _: Distribution("{}"))
    return folder


class Distribution:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


def test_a_wheel_says_it_in_a_file(package):
    (package / origin.COMMIT_FILE).write_text(SHA + "\n")
    assert origin.reference() == SHA


def test_pip_says_it_of_an_installation_from_git(package, monkeypatch):
    url = {"url": "https://github.com/ivadomed/mreg", "vcs_info": {"vcs": "git", "commit_id": SHA}}
    monkeypatch.setattr(origin.metadata, "distribution", lambda _: Distribution(json.dumps(url)))
    assert origin.reference() == SHA


def test_a_package_in_somebody_elses_checkout_does_not_take_its_commit(package):
    subprocess.run(["git", "init", "--quiet", str(package.parent)], check=True)
    assert origin.commit() == ""


def test_without_any_of_them_it_is_the_version(package, monkeypatch):
    monkeypatch.setattr(origin.metadata, "distribution", lambda _: Distribution(None))
    assert origin.reference() == f"v{__version__}"


def test_a_build_brings_the_commit_of_its_checkout(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("registry/commit.txt").decode() == head.stdout
    assert origin.commit() == head.stdout.strip()
