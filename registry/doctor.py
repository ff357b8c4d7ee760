"""What is missing on this machine, and the command that mends it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from registry import cache
from registry.errors import MregError
from registry.stores import open_store, resolve_location

if TYPE_CHECKING:
    from collections.abc import Iterator

State = Literal["good", "missing", "bad"]
OLDEST = (3, 11)
LITTLE_DISK = 20e9  # bytes; a preprocessed set of a hundred volumes and a run
LITTLE_MEMORY = 8e9  # bytes
MACHINE = Path(__file__).resolve().parents[1] / "trainers" / "core" / "machine.py"
TRAINING = ("torch", "nnunetv2", "blosc2")
WRITES = {"repo", "public_repo"}  # scopes of a classic token, one of which a release needs


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    mend: str = ""  # what to do, "" where nothing has to be done


def examine(registry: str | None) -> list[Point]:
    """Look at Python, the training packages, the device, memory, disk, Git, and the registry with its token."""
    return [*_python(), *_training(), *_room(), *_tools(), *_registry(registry)]


def _python() -> Iterator[Point]:
    version = platform.python_version()
    fits = sys.version_info[:2] >= OLDEST
    mend = "" if fits else "install Python 3.11 and make a new environment with it"
    yield Point(name="Python", state="good" if fits else "bad", found=version, mend=mend)


def _training() -> Iterator[Point]:
    absent = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    if absent:
        mend = 'pip install "mreg[train]"'
        yield Point(name="training", state="missing", found=f"without {', '.join(absent)}", mend=mend)
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in TRAINING)
    yield Point(name="training", state="good", found=versions)
    done = subprocess.run(
        [sys.executable, "-P", str(MACHINE)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        yield Point(name="device", state="bad", found=reason, mend="pip install --force-reinstall torch")
        return
    facts: dict[str, Any] = json.loads(done.stdout)
    numbers = "bfloat16" if facts["bf16"] else "no bfloat16"
    if facts["device"] == "cuda":
        memory = f"{facts['free'] / 1e9:.0f} of {facts['total'] / 1e9:.0f} GB free"
        yield Point(name="device", state="good", found=f"{facts['gpus']} x {facts['name']}, {memory}, {numbers}")
    else:
        found = f"{facts['device']}, {facts['cores']} cores, {numbers}"
        yield Point(name="device", state="missing", found=found, mend="train large networks where there is a GPU")


def _room() -> Iterator[Point]:
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        memory = 0  # this system does not say
    if memory:
        enough = memory >= LITTLE_MEMORY
        mend = "" if enough else "end other programs, or train with a smaller patch_size"
        yield Point(name="memory", state="good" if enough else "bad", found=f"{memory / 1e9:.0f} GB free", mend=mend)
    for name, folder in (("disk", Path.cwd()), ("cache", cache.root())):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        enough = free >= LITTLE_DISK
        mend = "" if enough else f"make room below {there}"
        found = f"{free / 1e9:.0f} GB free in {folder}"
        yield Point(name=name, state="good" if enough else "bad", found=found, mend=mend)


def _tools() -> Iterator[Point]:
    tools = (("git", "mreg new makes the first commit with it", True), ("gh", "mreg verify proves provenance", False))
    for name, use, need in tools:
        path = shutil.which(name)
        state: State = "good" if path else "bad" if need else "missing"
        yield Point(name=name, state=state, found=path or f"not there: {use}", mend="" if path else f"install {name}")


def _registry(option: str | None) -> Iterator[Point]:
    location = resolve_location(option)
    try:
        store = open_store(option)
    except MregError as error:
        yield Point(name="registry", state="bad", found=error.message, mend=error.hint)
        return
    if location.startswith("dir:"):
        there = Path(store.location.removeprefix("dir:")).is_dir()
        mend = "" if there else f"mkdir -p {location.removeprefix('dir:')}"
        yield Point(name="registry", state="good" if there else "missing", found=location, mend=mend)
        return
    from registry.stores.github import GitHubStore

    if not isinstance(store, GitHubStore):
        return
    try:
        token = store.token()
    except MregError as error:
        yield Point(name="registry", state="bad", found=error.message, mend=error.hint)
        return
    found = f"{location}, {token.remaining} of {token.limit} requests left this hour"
    mend = "" if token.remaining else "wait, or set GITHUB_TOKEN"
    yield Point(name="registry", state="bad" if mend else "good", found=found, mend=mend)
    make = "make a fine-grained token with Contents: write for the model's repository, and set GITHUB_TOKEN"
    if not token.given:
        yield Point(name="token", state="missing", found="none: reading works, releasing does not", mend=make)
    elif token.scopes is None:
        yield Point(
            name="token", state="good", found="a fine-grained or Actions token; GitHub does not tell its rights"
        )
    else:
        writes = bool(WRITES & set(token.scopes))
        found = f"scopes: {', '.join(token.scopes) or 'none'}"
        yield Point(name="token", state="good" if writes else "bad", found=found, mend="" if writes else make)
