"""An archive that lies here: what can be told without unpacking it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME, Manifest
from registry.manifest import read as read_manifest
from registry.tree import ZipTree
from registry.unpack import TRAINERS

if TYPE_CHECKING:
    from pathlib import Path

_DATASET_JSON = re.compile(rf"([^/]+/)?({'|'.join(TRAINERS)})[^/]*/dataset\.json")


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """An archive on this machine, with the manifest that lies beside it."""

    path: Path
    size: int
    sha256: str
    dataset: dict[str, Any]  # dataset.json of the archive, empty where it has none
    manifest: Manifest | None

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg show --json`."""
        return {
            "path": str(self.path),
            "size": self.size,
            "sha256": self.sha256,
            "orientation": self.dataset.get("image_orientation"),
            "labels": self.dataset.get("labels"),
            "channels": self.dataset.get("channel_names"),
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
        }


def show_archive(path: Path) -> LocalModel:
    """Return what an archive on this machine is; raise `IntegrityError` for one that cannot be read."""
    digest = sha256(path)
    beside = path.with_name(MANIFEST_NAME)
    manifest = read_manifest(beside) if beside.is_file() else None
    return LocalModel(
        path=path,
        size=path.stat().st_size,
        sha256=digest,
        dataset=_dataset_json(path),
        manifest=manifest if manifest and manifest.sha256_of(path.name) == digest else None,
    )


def _dataset_json(path: Path) -> dict[str, Any]:
    """Read the dataset.json of the trainer folder in an archive."""
    with ZipTree(path) as tree:
        found = next((name for name in tree.files() if _DATASET_JSON.fullmatch(name)), "")
        try:
            document = json.loads(tree.read_bytes(found)) if found else {}
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{path}: {found}: not JSON: {error}", hint=f"mreg check {path}") from error
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error.message}", hint=f"mreg check {path}") from error
    return document if isinstance(document, dict) else {}
