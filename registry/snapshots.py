"""What can be compared of a model: its facts from a manifest, from the files of an archive or run, or from a contract.

A fact that nobody has read is None and is compared with nothing: a manifest says little of the plans, a repo without a
training says what its dataset.json says and no more.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from registry import encoder
from registry.checks.contract import AIL, FALLBACK, ORIENTATION
from registry.checks.network import chosen
from registry.checks.rules import line_of, read_object
from registry.errors import MregError
from registry.labels import BACKGROUND, IGNORE, output_suffixes
from registry.trainer_code import FILE_NAME
from registry.tree import DAMAGE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from registry.checks.archive import Archive
    from registry.checks.model_files import ModelFiles
    from registry.manifest import Manifest, Metrics, ModelEntry
    from registry.tree import Tree

CROP_FILE = "crop_metadata.json"
FINAL = "checkpoint_final.pth"
# Facts of a configuration in plans.json, in words.
NETWORK = {
    "patch_size": "patch size",
    "spacing": "spacing (mm)",
    "normalization_schemes": "normalisation",
    "preprocessor_name": "preprocessor",
    "resampling_fn_data": "resampling",
}
SOFTWARE = ("nnunetv2", "torch")
AIL_CODE = "AIL"  # what SCT takes for data called RegionBasedLesionSeg
Place = tuple[str, int | None]  # path in the target, line


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model of a release, or what a run or a repo would make one of."""

    asset: str = ""  # archive's name, "" where there is none yet
    variant: str = ""
    layout: str | None = None  # "root" or "dataset"
    trainer_folder: str | None = None
    trainer: str | None = None
    own_code: bool | None = None  # whether trainer_class.py comes along
    folds: tuple[str, ...] | None = None
    orientation: str | None = None  # in SCT's letters, as SCT takes it
    channels: dict[str, str] | None = None
    labels: dict[str, tuple[int, ...]] | None = None  # without the background
    suffixes: tuple[str, ...] | None = None
    network: dict[str, str] | None = None  # patch size, spacing and so on
    plans_sha256: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    weights: dict[str, str] | None = None  # fold → SHA-256 of its checkpoint
    crop: str | None = None  # SHA-256 of crop_metadata.json, "" where there is none
    size: int | None = None  # bytes of the archive
    sha256: str | None = None
    data: tuple[str, int] | None = None  # name and number of training cases
    metrics: Metrics | None = None
    versions: dict[str, str] | None = None
    places: dict[str, Place] = field(default_factory=dict)  # name of a fact → where a file says it


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A release at the moment when it was read, or what could become one."""

    title: str  # what people call it: NAME@TAG, a path or an address
    name: str = ""  # of the model, "" where nobody says it
    tag: str = ""
    licence: str | None = None
    models: tuple[ModelFacts, ...] = ()


def of_manifest(manifest: Manifest, title: str) -> Snapshot:
    """Return what a release's manifest says; no archive is looked at."""
    sizes = {asset.name: asset.size for asset in manifest.assets}
    models = tuple(
        replace(_of_entry(entry), size=sizes[entry.asset], sha256=manifest.sha256_of(entry.asset))
        for entry in manifest.models
    )
    return Snapshot(title=title, name=manifest.name, tag=manifest.tag, licence=manifest.licence, models=models)


def _of_entry(entry: ModelEntry) -> ModelFacts:
    digests = {member.path.rpartition("/")[2]: member.sha256 for member in entry.members}
    weights = {m.path.split("/")[-2]: m.sha256 for m in entry.members if m.path.endswith(f"/{FINAL}")}
    return ModelFacts(
        asset=entry.asset,
        variant=entry.variant,
        layout=entry.layout,
        trainer_folder=entry.trainer_folder,
        trainer=entry.trainer,
        own_code=FILE_NAME in digests,
        folds=tuple(str(fold) for fold in entry.folds),
        orientation=entry.orientation,
        channels=dict(entry.channels),
        labels=_labels(entry.labels),
        suffixes=entry.sct_suffixes,
        plans_sha256=digests.get("plans.json"),
        parameters=entry.weights.parameters,
        dtype=entry.weights.dtype,
        weights=weights,
        crop=digests.get(CROP_FILE, ""),
        data=(entry.data.name, entry.data.num_training),
        metrics=entry.metrics,
        versions={name: entry.versions[name] for name in SOFTWARE if name in entry.versions},
    )


def of_contract(tree: Tree, prefix: str = "", plans: Mapping[str, Any] | None = None) -> ModelFacts:
    """Return what a dataset.json says; beside `plans` it is a model's, of which SCT guesses an orientation."""
    path = f"{prefix}dataset.json"
    document = read_object(tree, path) or {}
    labels, channels, code = document.get("labels"), document.get("channel_names"), document.get(ORIENTATION)
    if code is None and plans is not None:
        code = AIL_CODE if AIL in str(plans.get("dataset_name")) else FALLBACK
    keys = {"orientation": ORIENTATION, "labels": "labels", "channels": "channel_names"}
    return ModelFacts(
        orientation=None if code is None else str(code),
        channels={str(key): str(name) for key, name in channels.items()} if isinstance(channels, dict) else None,
        labels=_labels(labels) if isinstance(labels, dict) else None,
        suffixes=tuple(output_suffixes(document)) if isinstance(labels, dict) else None,
        places={fact: (path, line_of(tree, path, key)) for fact, key in keys.items()},
    )


def of_files(files: ModelFiles, *, weights: Collection[str] = ()) -> ModelFacts:
    """Return what a trainer folder's files say; of the checkpoints in `weights` (paths in the tree) the digests."""
    plans = files.plans or {}
    described = next(iter(files.described.values()), None)
    digests = {path.split("/")[-2]: _digest(files.tree, path) or "" for path in weights}
    count = (files.dataset_json or {}).get("numTraining")
    # An encoder has no dataset.json, and SCT takes nothing for granted of it.
    facts = of_contract(files.tree, files.prefix, None if plans.get("plans_name") == encoder.PLANS else plans)
    place: Place = (files.at("plans.json"), files.line("plans.json", "configurations", files.configuration))
    return replace(
        facts,
        trainer_folder=files.folder or None,
        trainer=described.trainer_name if described else files.folder.partition("__")[0] or None,
        own_code=files.trainer_file.exists,
        folds=tuple(sorted(name.removeprefix("fold_") for name in files.folds)),
        network=_network(chosen(files)) if files.plans else None,
        plans_sha256=_digest(files.tree, files.at("plans.json")),
        parameters=described.parameters if described else None,
        dtype=described.dtype if described else None,
        weights=digests or None,
        data=(str(plans.get("dataset_name", "")), count) if isinstance(count, int) else None,
        places={**facts.places, "network": place},
    )


def of_archive(archive: Archive, left_out: Collection[str] = (), entry: ModelEntry | None = None) -> ModelFacts:
    """Return what an archive's files say, and its manifest's entry where there is one; `left_out` was not read."""
    facts = ModelFacts(asset=archive.path.name, layout="dataset" if archive.wrapper else "root")
    if archive.model is not None:
        finals = [p for p in archive.tree.files() if p.startswith(archive.model.prefix) and p.endswith(f"/{FINAL}")]
        known = entry is not None or any(path in left_out for path in finals)  # else the whole archive is read
        read = of_files(archive.model, weights=() if known else finals)
        crop = f"{archive.wrapper}{CROP_FILE}"
        crop_digest = _digest(archive.tree, crop) if archive.tree.exists(crop) else ""
        facts = replace(read, asset=facts.asset, layout=facts.layout, crop=crop_digest)
    return filled(facts, _of_entry(entry)) if entry is not None else facts


def filled(facts: ModelFacts, other: ModelFacts) -> ModelFacts:
    """Return facts with those of `other` where they have none."""
    missing = [item.name for item in fields(ModelFacts) if getattr(facts, item.name) is None]
    known = replace(facts, **{name: getattr(other, name) for name in missing})
    return replace(known, asset=facts.asset or other.asset, variant=facts.variant or other.variant)


def tag_in(archive: str) -> str:
    """Return the tag in an archive's name, "" where there is none.

    >>> tag_in("model_seg_sc_t2-r20261121.zip")
    'r20261121'
    """
    found = re.search(r"[-_](r\d+\w*|v\d[\w.]*)\.zip$", archive)
    return found[1] if found else ""


def _labels(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        if name in (BACKGROUND, IGNORE):
            continue
        try:
            found[name] = tuple(int(item) for item in (value if isinstance(value, list | tuple) else [value]))
        except (TypeError, ValueError, OverflowError):
            found[name] = ()  # LABEL001 says so
    return found


def _network(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return what a configuration of plans.json says, in words; plans of old nnU-Nets name the class elsewhere."""
    architecture = configuration.get("architecture")
    name = architecture.get("network_class_name") if isinstance(architecture, dict) else None
    arguments = architecture.get("arch_kwargs") if isinstance(architecture, dict) else None
    features = arguments.get("features_per_stage") if isinstance(arguments, dict) else None
    found = {word: _shown(configuration[key]) for key, word in NETWORK.items() if configuration.get(key) is not None}
    found["architecture"] = str(name or configuration.get("UNet_class_name", "")).rpartition(".")[2]
    found["features"] = _shown(features) if features else ""
    return {word: text for word, text in found.items() if text}


def _shown(value: object) -> str:
    if isinstance(value, list):
        numbers = all(isinstance(item, int | float) for item in value)
        return ("x" if numbers else ", ").join(f"{i:.3g}" if isinstance(i, float) else str(i) for i in value)
    return str(value)


def _digest(tree: Tree, path: str) -> str | None:
    """Return a file's SHA-256, None where it is missing or damaged."""
    digest = hashlib.sha256()
    try:
        with tree.open(path) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except (MregError, *DAMAGE):
        return None
    return digest.hexdigest()
