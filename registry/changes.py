"""Kinds of change between two releases of a model, and which of them an installed SCT and scripts around it survive.

A breaking change is an error of `mreg check --against`, until model.toml says under [release] that it is meant:
`accept = ["CHANGE003"]`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from registry.findings import Level
    from registry.snapshots import Place


class Kind(NamedTuple):
    """A kind of change."""

    breaking: bool
    summary: str

    @property
    def level(self) -> Level:
        """Return the level of its findings."""
        return "error" if self.breaking else "note"


# A code never changes its meaning. Below 20 they break something.
KINDS = {
    "CHANGE001": Kind(True, "the trainer folder has another name: an update can leave two, and SCT stops at two"),
    "CHANGE002": Kind(True, "a file that SCT wrote before is not written any more, or has another name"),
    "CHANGE003": Kind(True, "the orientation of the images is another one: a wrong one degrades masks silently"),
    "CHANGE004": Kind(True, "the input is another one: channels, their order, or how nnU-Net normalises them"),
    "CHANGE005": Kind(True, "a label stands for other values than before"),
    "CHANGE006": Kind(True, "the model needs code of its own (trainer_class.py) and did not before"),
    "CHANGE007": Kind(True, "numbered folds have become fold_all, or the other way round"),
    "CHANGE008": Kind(True, "an archive of the release has no successor"),
    "CHANGE009": Kind(True, "crop_metadata.json is missing and was there before"),
    "CHANGE010": Kind(True, "the target cannot be compared, because it cannot be read"),
    "CHANGE020": Kind(False, "there is no release to compare with"),
    "CHANGE021": Kind(False, "the trainer is another one, or needs no code of its own any more"),
    "CHANGE022": Kind(False, "SCT writes a file more"),
    "CHANGE023": Kind(False, "channels have other names, which change nothing"),
    "CHANGE024": Kind(False, "there are other folds"),
    "CHANGE025": Kind(False, "the plans are others: patch size, spacing, architecture, normalisation"),
    "CHANGE026": Kind(False, "the weights: their number or type is another one, or they are the same as before"),
    "CHANGE027": Kind(False, "the archive has another size, or the same bytes as before"),
    "CHANGE028": Kind(False, "the metrics are others"),
    "CHANGE029": Kind(False, "the training data are others"),
    "CHANGE030": Kind(False, "an archive is new"),
    "CHANGE031": Kind(False, "the layout of the archive is another one; SCT reads both"),
    "CHANGE032": Kind(False, "crop_metadata.json is new or has other values"),
    "CHANGE033": Kind(False, "the model's name or licence is another one"),
    "CHANGE034": Kind(False, "it was trained with other versions of the software"),
    "CHANGE035": Kind(False, "a change that model.toml accepts is not there"),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is another one."""

    code: str
    what: str  # in words
    old: str
    new: str
    reason: str = ""  # what it means for users, "" where the code's summary says it
    model: str = ""  # archive, where a release has several
    place: Place = ("", None)

    @property
    def breaking(self) -> bool:
        """Whether an installed SCT or a script around it stumbles over it."""
        return KINDS[self.code].breaking

    @property
    def step(self) -> str:
        """Return old and new, or once what stayed the same and should not have."""
        return self.new if self.old == self.new else f"{self.old} → {self.new}"

    @property
    def meaning(self) -> str:
        """Return the reason, or what the code means in general."""
        return self.reason or KINDS[self.code].summary

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `mreg diff --json`."""
        document = {key: value for key, value in asdict(self).items() if key != "place"}
        return {**document, "breaking": self.breaking, "reason": self.meaning}
