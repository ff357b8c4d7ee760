"""Which commit of mreg this is: a model's workflows call mreg's at exactly that one.

A tag can be moved, a commit cannot. A wheel brings its commit along (hatch_build.py); pip records that of an
installation from a repository; a checkout asks git. Sources without any of these know their version only.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import metadata
from pathlib import Path

from registry import __version__, git

PACKAGE = Path(__file__).parent
COMMIT_FILE = "commit.txt"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@functools.cache
def commit() -> str:
    """Return the commit of the mreg that runs, "" where nobody knows it."""
    found = (find() for find in (_of_wheel, _of_checkout, _of_installation))
    return next((sha for sha in found if _COMMIT.fullmatch(sha)), "")


def reference() -> str:
    """Return what a workflow of mreg's is called at: its commit, else the tag of its version."""
    return commit() or f"v{__version__}"


def _of_wheel() -> str:
    path = PACKAGE / COMMIT_FILE
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""


def _of_checkout() -> str:
    root = PACKAGE.parent
    if not (root / "pyproject.toml").is_file() or not (root / ".git").exists():  # a folder in somebody else's checkout
        return ""
    return git.answer(root, "rev-parse", "HEAD")


def _of_installation() -> str:
    """Return what pip wrote down of `pip install git+https://…` (PEP 610)."""
    try:
        text = metadata.distribution("mreg").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ""
    return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))
