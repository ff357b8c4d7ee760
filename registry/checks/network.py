"""Rules on plans.json: whether the packages that SCT installs can build and feed the network that it describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.checks.contract import packages
from registry.checks.rules import Draft, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model_files import ModelFiles

PLANS = "plans.json"
# Key of a configuration → key of stock_packages.json.
PARTS = {
    "preprocessor_name": "preprocessors",
    "resampling_fn_data": "resampling",
    "resampling_fn_seg": "resampling",
    "resampling_fn_probabilities": "resampling",
    "normalization_schemes": "normalizations",
}
DIMENSIONS = {"2d": 2, "3d": 3}


def chosen(model: ModelFiles) -> dict[str, Any]:
    """Return the configuration that the folder names, with what it inherits."""
    configurations = (model.plans or {}).get("configurations")
    found: dict[str, Any] = {}
    name, seen = model.configuration, set[str]()
    while isinstance(configurations, dict) and isinstance(configurations.get(name), dict) and name not in seen:
        seen.add(name)
        found = {**configurations[name], **found}
        name = str(configurations[name].get("inherits_from", ""))
    return found


def _line(model: ModelFiles, *keys: str) -> int | None:
    return model.line(PLANS, "configurations", model.configuration, *keys)


@rule("NET001")
def network_is_in_scts_packages(model: ModelFiles) -> Iterator[Draft]:
    """The network's class and its arguments are those of the package that SCT installs."""
    architecture = chosen(model).get("architecture")
    if not isinstance(architecture, dict) or model.trainer_file.exists:  # a custom trainer may build another network
        return
    known = packages()["sct"]
    name = str(architecture.get("network_class_name", "")).rpartition(".")[2]
    package = known["packages"][1]
    if name and name not in known["architectures"]:
        message = f"network {name} is not in {package}, which SCT installs"
        yield model.at(PLANS), message, "ship a trainer_class.py that builds it", _line(model, "architecture")
    arguments = architecture.get("arch_kwargs")
    if name in known["arguments"] and isinstance(arguments, dict):
        for argument in sorted(set(arguments) - set(known["arguments"][name])):
            line = _line(model, "architecture", "arch_kwargs", argument)
            yield model.at(PLANS), f"{name} of {package} has no argument {argument}", "take it out", line


@rule("NET002")
def parts_are_in_scts_packages(model: ModelFiles) -> Iterator[Draft]:
    """Preprocessing, resampling and normalisation are those of the package that SCT installs."""
    known, configuration = packages()["sct"], chosen(model)
    for key, kind in PARTS.items():
        value = configuration.get(key)
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and name not in known[kind]:
                message = f"{key} {name} is not in {known['packages'][0]}, which SCT installs"
                yield model.at(PLANS), message, f"there are: {', '.join(known[kind])}", _line(model, key)


@rule("NET003")
def no_stage_comes_before(model: ModelFiles) -> Iterator[Draft]:
    """The configuration is no cascade: SCT has no earlier stage to feed it with."""
    before = chosen(model).get("previous_stage")
    if before or "cascade" in model.configuration:
        message = (
            f"{model.configuration} needs the result of {before or 'an earlier stage'}, which SCT does not compute"
        )
        yield model.at(PLANS), message, "release 2d or 3d_fullres", _line(model, "previous_stage")


@rule("NET004", "warning")
def sizes_have_the_configurations_dimensions(model: ModelFiles) -> Iterator[Draft]:
    """Patch, spacing and convolutions have as many dimensions as the configuration's name says."""
    configuration = chosen(model)
    wanted = DIMENSIONS.get(model.configuration[:2])
    architecture = configuration.get("architecture")
    arguments = architecture.get("arch_kwargs") if isinstance(architecture, dict) else None
    convolution = str(arguments.get("conv_op", "")) if isinstance(arguments, dict) else ""
    for key in ("patch_size", "spacing"):
        value = configuration.get(key)
        if wanted and isinstance(value, list) and len(value) != wanted:
            message = f"{key} has {len(value)} numbers, the configuration is {model.configuration}"
            yield model.at(PLANS), message, "pack the run again", _line(model, key)
    if wanted and convolution[-2:] in ("1d", "2d", "3d") and convolution[-2:-1] != str(wanted):
        line = _line(model, "architecture", "arch_kwargs", "conv_op")
        message = f"the network has {convolution.rpartition('.')[2]}, the configuration is {model.configuration}"
        yield model.at(PLANS), message, "pack the run again", line


@rule("NET005")
def every_channel_is_normalised(model: ModelFiles) -> Iterator[Draft]:
    """plans.json has a normalisation for every channel of dataset.json."""
    channels = (model.dataset_json or {}).get("channel_names")
    schemes = chosen(model).get("normalization_schemes")
    if isinstance(channels, dict) and isinstance(schemes, list) and len(schemes) != len(channels):
        message = f"{len(schemes)} normalization_schemes, dataset.json names {len(channels)} channels"
        hint = "dataset.json and plans.json belong to one training: pack the run again"
        yield model.at(PLANS), message, hint, _line(model, "normalization_schemes")


RULES = [
    network_is_in_scts_packages, parts_are_in_scts_packages, no_stage_comes_before,
    sizes_have_the_configurations_dimensions, every_channel_is_normalised,
]  # fmt: skip
