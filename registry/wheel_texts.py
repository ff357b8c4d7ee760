"""What a classifier's wheel, and the container around it, say in words: metadata, manual, entry script."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from registry.errors import MregError

if TYPE_CHECKING:
    from registry.manifest import Manifest

TEMPLATES = Path(__file__).parent / "templates" / "wheel"
BINARY = 2


@dataclass(frozen=True, kw_only=True)
class Model:
    """A packed classifier: its manifest and its plan."""

    manifest: Manifest
    plan: dict[str, Any]

    @property
    def package(self) -> str:
        """Return the name that Python imports, which is that of the distribution."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", self.manifest.name)
        if not name.isidentifier():
            raise MregError(f"{self.manifest.name}: no name of a Python package", hint="it begins with a letter")
        return name

    @property
    def version(self) -> str:
        """Return the tag as Python counts versions: r20261121 is 20261121, v1.2.0 is 1.2.0."""
        version = self.manifest.tag.lstrip("rv")
        if not re.fullmatch(r"\d+(\.\d+)*", version):
            raise MregError(f"tag {self.manifest.tag!r}: no version of a Python package", hint="r20261121, or v1.2.0")
        return version

    @property
    def channels(self) -> list[str]:
        """Return the names of the images of a case, in their order."""
        return list(self.plan["channels"])

    @property
    def labels(self) -> dict[str, list[str]]:
        """Return the classes of each label, in the order of the answers."""
        return {label["name"]: list(label["values"]) for label in self.plan["labels"]}

    @property
    def has_roi(self) -> bool:
        """Whether the model takes a mask of the region of interest."""
        return bool(self.plan["roi_classes"])


def fill(template: str, model: Model, **more: str) -> str:
    """Return a template's text for a model."""
    manifest = model.manifest
    values = {
        "name": manifest.name,
        "package": model.package,
        "version": model.version,
        "tag": manifest.tag,
        "mreg_version": manifest.mreg_version,
        "title": manifest.description or f"Classifier {manifest.name}",
        "summary": json.dumps(" ".join((manifest.description or f"Classifier {manifest.name}").split())),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "channels": ", ".join(model.channels),
        "labels": ", ".join(model.labels),
        "images": ", ".join(f'"{_slug(channel)}.mha"' for channel in model.channels),
        "mask": ', "mask.mha"' if model.has_roi else "",
        "mask_sentence": "The mask of the region of interest is needed." if model.has_roi else "There is no mask.",
        "inputs": "\n".join(f"{number}. {channel}" for number, channel in enumerate(model.channels, start=1)),
        "outputs": "\n".join(
            f"{number}. {label}: {_answer(classes)}" for number, (label, classes) in enumerate(model.labels.items(), 1)
        ),
        "licence": f"The model's licence: {manifest.licence}." if manifest.licence else "",
        "image": model.package.lower(),
    }
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values | more)


def task_config(model: Model) -> dict[str, Any]:
    """Return what the entry script reads: the platform's names of inputs and outputs, to be changed there."""
    return {
        "input_interfaces": [_slug(channel) for channel in model.channels],
        "roi_segmentation_interface": "roi-segmentation" if model.has_roi else None,
        "output_interfaces": [_slug(label) for label in model.labels],
    }


def _answer(classes: list[str]) -> str:
    if len(classes) == BINARY:
        return f"the probability of {classes[1]} (against {classes[0]})"
    return f"a list with the probabilities of {', '.join(classes)}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "image"
