"""Rules on whether a model is what its name says. They warn and never block: a name is short, and content is rich."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry import names
from registry.checks.rules import Draft, line_of, read_object, rule
from registry.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.findings import Finding
    from registry.tree import Tree

ARCHIVE_NAME = re.compile(r"(?P<name>[A-Za-z0-9_-]+?)(?:-fold\d+)?[-_](?:r\d{8}|v\d[\w.]*)\.zip")
# What the vocabulary's words do not reach: two words for one thing, and the levels of the rootlets.
PHRASES = {"gray matter": "gm", "grey matter": "gm", "white matter": "wm", "spinal cord": "sc", "spinal canal": "canal"}
LEVEL = re.compile(r"lvl ?\d+|level ?\d+")
# Contrasts that are read from one acquisition: either word is true.
ALIKE = ({"mp2rage", "unit1"}, {"mts", "mtr"}, {"epi", "bold"}, {"t2star", "swi", "qsm"})
NETS = {"resencl": "ResidualEncoderUNet"}
DIMENSIONS = {"unet2d": 2, "unet3d": 3}


@dataclass(frozen=True)
class Claim:
    """A model's name beside the files that show what the model is."""

    name: str
    tree: Tree
    dataset_path: str
    configuration: str  # of nnU-Net, "" where nobody says it
    place: tuple[str, int | None]  # path and line where the configuration is named
    plans_path: str = ""

    @cached_property
    def fields(self) -> dict[str, list[str]]:
        """Return what the name says; nothing for a name that cannot be read."""
        return names.parse(self.name).fields or {}

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """Return dataset.json, an empty object where there is none."""
        return read_object(self.tree, self.dataset_path) or {}

    @cached_property
    def network(self) -> str:
        """Return the class of the network that plans.json names, "" where it names none."""
        plans = (read_object(self.tree, self.plans_path) if self.plans_path else None) or {}
        configurations = plans.get("configurations")
        chosen = configurations.get(self.configuration) if isinstance(configurations, dict) else None
        architecture = chosen.get("architecture") if isinstance(chosen, dict) else None
        found = architecture.get("network_class_name") if isinstance(architecture, dict) else None
        return str(found or "").rpartition(".")[2]

    def named(self, key: str) -> dict[str, Any]:
        """Return an object of dataset.json."""
        value = self.dataset_json.get(key)
        return value if isinstance(value, dict) else {}

    def line(self, *keys: str) -> int | None:
        """Return the line of a key of dataset.json."""
        return line_of(self.tree, self.dataset_path, *keys)


@rule("NAME004", "warning")
def contrasts_are_the_channels(claim: Claim) -> Iterator[Draft]:
    """The name's contrasts are those of dataset.json's channels, and as many where there are several channels."""
    channels, contrasts = claim.named("channel_names"), claim.fields.get("contrast", [])
    if not contrasts or "agnostic" in contrasts:
        return
    if len(channels) > 1 and len(channels) != len(contrasts):
        said = f"the name has {len(contrasts)} contrast{'s' * (len(contrasts) != 1)}"
        message, line = f"{len(channels)} channels, {said}", claim.line("channel_names")
        yield claim.dataset_path, message, "name one contrast a channel, in their order", line
    for key, channel in channels.items():
        found = _terms(str(channel), "contrast")
        if found and not any(_alike(one, other) for one in found for other in contrasts):
            message = f"channel {key} is {channel!r}, the name says {'-'.join(contrasts)}"
            yield claim.dataset_path, message, "mend one of them", claim.line("channel_names", key)


@rule("NAME005", "warning")
def architecture_is_the_networks(claim: Claim) -> Iterator[Draft]:
    """The architecture that the name writes is the network's: 2D or 3D, and its kind."""
    (said,) = claim.fields.get("architecture") or [""]
    path, line = claim.place
    wanted, configuration = DIMENSIONS.get(said), claim.configuration
    if wanted and configuration[:2] in ("2d", "3d") and configuration[:1] != str(wanted):
        hint = f"unet{configuration[:2]} says what it is"
        yield path, f"the configuration is {configuration}, the name says {said}", hint, line
    network = NETS.get(said)
    if network and claim.network and claim.network != network:
        message = f"the network is a {claim.network}, the name says {said}"
        yield claim.plans_path, message, "mend the name", line_of(claim.tree, claim.plans_path, "configurations")


@rule("NAME006", "warning")
def anatomy_is_the_labels(claim: Claim) -> Iterator[Draft]:
    """The structures in the name are those that dataset.json labels."""
    labels = [label for label in claim.named("labels") if label not in ("background", "ignore")]
    if not claim.fields or claim.fields.get("task", ["seg"]) != ["seg"] or not labels:
        return
    said = claim.fields.get("anatomy", ["sc"])
    found = {label: _terms(label, "anatomy") for label in labels}
    for label, terms in found.items():
        if terms and not terms & set(said) and "spine" not in said:
            known = "" if "anatomy" in claim.fields else ", which is what a name without a structure means"
            message = f"label {label!r} is {', '.join(sorted(terms))}, the name says {'-'.join(said)}{known}"
            yield claim.dataset_path, message, "name every structure that the model finds", claim.line("labels", label)
    missing = [term for term in claim.fields.get("anatomy", []) if not any(term in terms for terms in found.values())]
    if missing and "spine" not in said and all(found.values()):
        message = f"no label is {', '.join(missing)}, which the name says"
        yield claim.dataset_path, message, "mend the name, or the labels", claim.line("labels")


RULES = [contrasts_are_the_channels, architecture_is_the_networks, anatomy_is_the_labels]


def findings(claim: Claim) -> Iterator[Finding]:
    """Yield where the model is another than its name says."""
    for entry in RULES:
        yield from entry.run(claim)


def name_in(archive: str) -> str:
    """Return the model's name in an archive's, "" where there is none that can be read.

    >>> name_in("model_seg_sc_t2-resencl-r20261121.zip")
    'model_seg_sc_t2'
    """
    found = ARCHIVE_NAME.fullmatch(archive)
    name = found["name"] if found else ""
    while name and names.parse(name).errors:
        name = name.rpartition("-")[0]  # the variant
    return name


def _terms(text: str, field: str) -> set[str]:
    """Return the vocabulary's terms of a field that a label or a channel mentions."""
    vocabulary = load_vocabulary()
    plain = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    found = {term for phrase, term in PHRASES.items() if phrase in plain} if field == "anatomy" else set()
    if field == "anatomy" and LEVEL.fullmatch(plain):
        found.add("rootlets")
    for word in [plain.replace(" ", "-"), *plain.split()]:
        entry = vocabulary.find(word)
        if entry is not None and entry.field == field and entry.term:
            found.add(entry.term)
    return found


def _alike(one: str, other: str) -> bool:
    return one == other or any({one, other} <= group for group in ALIKE)
