"""What a build adds: its commit, so that an installed mreg knows which of its workflows to call."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Put registry/commit.txt into wheel and sdist, where git knows the commit."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ask git; sources without it, as in an sdist, keep the file that they came with."""
        if version == "editable" or not (Path(self.root) / ".git").exists():
            return
        command = ["git", "-C", self.root, "rev-parse", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return
        if done.returncode == 0:
            path = Path(tempfile.mkdtemp(prefix="mreg-build-")) / "commit.txt"
            path.write_text(done.stdout)
            build_data["force_include"][str(path)] = "registry/commit.txt"
