"""What `labels` and `channel_names` of a dataset.json mean to nnU-Net and to the Spinal Cord Toolbox (SCT).

A label's value is a number, or a list of numbers: a region, which overlaps others. nnU-Net refuses some mistakes
late and does not notice others at all, among them class ids that give a region another region's meaning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from registry import lines
from registry.errors import MregError
from registry.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Draft = tuple[str, Level, str, str]  # code, level, message, hint
BACKGROUND, IGNORE = "background", "ignore"
# Channel names that choose a normalisation in nnU-Net, in any case; every other name means z-score.
NORMALISATIONS = {
    "ct": "as CT",
    "nonorm": "not at all",
    "rescale_to_0_1": "to 0..1",
    "rgb_to_0_1": "from 0..255 to 0..1",
}

# Code → level and what is wrong. A code never changes its meaning; LABEL013 is an error beside regions.
KINDS: dict[str, tuple[Level, str]] = {
    "LABEL001": ("error", "labels is no object, or a label's value is no number and no list of numbers"),
    "LABEL002": ("error", "background is missing, or is not the number 0"),
    "LABEL003": ("error", "names and values are swapped, as nnU-Net v1 wrote them"),
    "LABEL004": ("error", "the values are not 0, 1, 2 and so on"),
    "LABEL005": ("error", "two names have one value"),
    "LABEL006": ("error", "ignore is not the integer above all others"),
    "LABEL007": ("error", "regions without a regions_class_order of as many integers"),
    "LABEL008": ("error", "regions_class_order gives a region a value that is not its own, or that is written over"),
    "LABEL009": ("error", "there is nothing to segment"),
    "LABEL010": ("error", "a name cannot be part of a file's name"),
    "LABEL011": ("warning", "regions_class_order without regions"),
    "LABEL012": ("warning", "SCT writes an empty file for ignore"),
    "LABEL013": ("warning", "values are text"),
    "LABEL014": ("warning", "a name brings unusual characters into the names of SCT's files"),
    "LABEL015": ("warning", "SCT's output would end in _seg_seg"),
    "LABEL016": ("note", "SCT keeps only the largest object of canal_seg"),
    "LABEL017": ("error", "a region holds the background"),
    "LABEL018": ("warning", "two names differ only in case"),
    "CHANNEL001": ("error", "the keys of channel_names do not run from 0"),
    "CHANNEL002": ("note", "a channel's name chooses another normalisation than z-scores"),
}


class Label(NamedTuple):
    """One entry of `labels` whose value can be read."""

    name: str
    values: tuple[int, ...]
    is_list: bool
    is_text: bool  # digits as text, which nnU-Net takes for numbers in some places only


class Contract(NamedTuple):
    """`labels` and `regions_class_order` as read, for the rules."""

    labels: dict[str, Label]
    order: Any  # regions_class_order, None where absent

    @property
    def foreground(self) -> list[Label]:
        """Return what the network predicts, in the order of its keys."""
        return [label for label in self.labels.values() if label.name not in (BACKGROUND, IGNORE)]

    @property
    def has_regions(self) -> bool:
        """Whether nnU-Net trains on regions: a list with more than one number."""
        return any(len(label.values) > 1 for label in self.labels.values())


def check_labels(dataset_json: Mapping[str, Any], path: str = "dataset.json", text: str = "") -> list[Finding]:
    """Return everything that is wrong with labels, regions_class_order and channel_names.

    `path` is the file's path inside the target, `text` what it says, for the lines of the findings. An absent
    `channel_names` is the schema's business.
    """
    findings = [*_label_findings(dataset_json), *_channel_findings(dataset_json.get("channel_names", {"0": ""}))]
    return [
        Finding(code=code, level=level, message=message, hint=hint, path=path, line=_line(dataset_json, text, message))
        for code, level, message, hint in findings
    ]


def output_suffixes(dataset_json: Mapping[str, Any]) -> list[str]:
    """Return what SCT appends to the input's name for each file that it writes.

    >>> output_suffixes({"labels": {"background": 0, "sc": [1, 2], "lesion": 2}})
    ['_sc_seg', '_lesion_seg']
    """
    names = [name for name in dataset_json["labels"] if name != BACKGROUND]
    if names == ["sc"]:
        return ["_seg"]
    if names == [f"lvl{level}" for level in range(1, len(names) + 1)]:
        return ["_rootlets"]  # one file with a value for each level; SCT takes a model without labels for it, too
    return [f"_{name}_seg" for name in names]


def regions(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the values of each label that is predicted: a voxel belongs to it when it has one of them.

    Background and ignore are left out. Raises `MregError` for a value that is not a number or a list of numbers.
    """
    contract, broken = _read(dataset_json)
    if broken:
        raise MregError(f"labels: {', '.join(broken)}: not an integer or a list of integers", hint="mend dataset.json")
    return {label.name: label.values for label in contract.foreground}


def _line(dataset_json: Mapping[str, Any], text: str, message: str) -> int | None:
    """Return the line of the key that a message is about: of the label that it names, else of what it begins with."""
    key = re.match("regions_class_order|channel_names|labels", message)
    if not text or key is None:
        return None
    inside = [keys for keys in lines.of_keys(text) if len(keys) == 2 and keys[0] == key[0]]  # noqa: PLR2004 - key, name
    words = re.split(r"[\s:,='\"]+", message.removeprefix(key[0]))
    named = [keys for keys in inside if str(keys[1]) in words or repr(keys[1]) in message]
    if key[0] == "labels" and named:
        return lines.of_key(text, *named[-1])
    return lines.of_key(text, key[0] if key[0] in dataset_json else "labels")


def _read(dataset_json: Mapping[str, Any]) -> tuple[Contract, list[str]]:
    """Read the labels; return also the names of those whose value cannot be read."""
    raw = dataset_json.get("labels")
    labels: dict[str, Label] = {}
    broken = []
    for name, value in raw.items() if isinstance(raw, dict) else ():
        items = value if isinstance(value, list) else [value]
        numbers = [_number(item) for item in items]
        if not numbers or None in numbers:
            broken.append(f"{name} = {value!r}")
        else:
            values = tuple(number for number in numbers if number is not None)
            labels[name] = Label(name, values, isinstance(value, list), any(isinstance(item, str) for item in items))
    return Contract(labels, dataset_json.get("regions_class_order")), broken


def _number(item: Any) -> int | None:
    if isinstance(item, str) and item.isascii() and item.isdigit():
        return int(item)
    return item if isinstance(item, int) and not isinstance(item, bool) and item >= 0 else None


def _label_findings(dataset_json: Mapping[str, Any]) -> Iterator[Draft]:
    raw = dataset_json.get("labels")
    if not isinstance(raw, dict):
        yield "LABEL001", "error", f"labels is {raw!r}, expected an object", 'for example {"background": 0, "sc": 1}'
        return
    if raw and all(name.isdigit() for name in raw) and any(isinstance(value, str) for value in raw.values()):
        hint = "nnU-Net v2 wants the name first: " + ", ".join(f'"{value}": {name}' for name, value in raw.items())
        yield "LABEL003", "error", "labels: names and values are swapped, as nnU-Net v1 wrote them", hint
        return
    contract, broken = _read(dataset_json)
    for text in broken:
        yield "LABEL001", "error", f"labels: {text}, expected a number from 0 or a list of them", "write integers"
    yield from _file_names(contract)
    if not broken:
        for rule in (_background, _values, _ignore, _texts, _region_order):
            yield from rule(contract)


def _background(contract: Contract) -> Iterator[Draft]:
    background = contract.labels.get(BACKGROUND)
    if background is None:
        yield "LABEL002", "error", "labels has no background", 'add "background": 0'
    elif background.is_list or background.values != (0,):
        yield "LABEL002", "error", f"labels: background is {_shown(background)}, expected 0", 'write "background": 0'
    if not contract.foreground:
        message = "labels: nothing to segment (SCT would take it for the rootlets model)"
        yield "LABEL009", "error", message, "add the labels that the model predicts"


def _values(contract: Contract) -> Iterator[Draft]:
    labels = [label for label in contract.labels.values() if label.name != IGNORE]
    used = {0} | {value for label in labels for value in label.values}
    missing = sorted(set(range(len(used))) - used)
    if missing:
        message = f"labels: the values {_listed(sorted(used))} are not consecutive: {missing[0]} is missing"
        yield "LABEL004", "error", message, "number the labels 0, 1, 2 and so on, and the label images alike"
    first: dict[frozenset[int], str] = {}
    for label in labels:
        other = first.setdefault(frozenset(label.values), label.name)
        if other != label.name:
            message = f"labels: two names for one value: {other} and {label.name} are both {_shown(label)}"
            yield "LABEL005", "error", message, "keep one of them"
        elif 0 in label.values and len(label.values) > 1:
            message = f"labels: region {label.name} holds the background's 0"
            yield "LABEL017", "error", message, "leave 0 out of the region"


def _ignore(contract: Contract) -> Iterator[Draft]:
    ignore = contract.labels.get(IGNORE)
    if ignore is None:
        return
    highest = max(
        (value for label in contract.labels.values() if label is not ignore for value in label.values), default=0
    )
    if ignore.is_list or ignore.is_text or ignore.values != (highest + 1,):
        message = f"labels: ignore is {_shown(ignore)}, expected the integer {highest + 1} (highest value plus 1)"
        yield "LABEL006", "error", message, f'write "ignore": {highest + 1}'
    else:
        message = "labels: SCT writes an empty _ignore_seg for the label ignore"
        yield "LABEL012", "warning", message, "tell the model's users that this file means nothing"


def _texts(contract: Contract) -> Iterator[Draft]:
    names = [label.name for label in contract.labels.values() if label.is_text and label.name != IGNORE]
    if names:
        # Beside regions nnU-Net compares the text with the number 0 and finds one region too many.
        level: Level = "error" if contract.has_regions else "warning"
        yield "LABEL013", level, f"labels: the values of {', '.join(names)} are text", "write integers, without quotes"


def _region_order(contract: Contract) -> Iterator[Draft]:
    order, labels = contract.order, contract.foreground
    if not contract.has_regions:
        if order is not None:
            message = "regions_class_order is not used: no label is a list of several values"
            yield "LABEL011", "warning", message, "remove it, or make the labels regions"
        return
    names = ", ".join(label.name for label in labels)
    numbers = order if isinstance(order, list) and all(type(item) is int for item in order) else None
    if numbers is None or len(numbers) != len(labels):
        message = f"regions_class_order is {order!r}, expected {len(labels)} integers, one for each of {names}"
        yield "LABEL007", "error", message, "entry i is the value that the i-th label writes"
        return
    for position, (label, number) in enumerate(zip(labels, numbers, strict=True)):
        later = [other.name for other in labels[position + 1 :] if number in other.values]
        if number not in label.values:
            message = f"regions_class_order: {number} is not in {label.name} ({_shown(label)})"
            yield "LABEL008", "error", message, "give each region one of its own values, in the order of the labels"
        elif later:
            message = f"regions_class_order: {label.name} writes {number}, and {later[-1]} writes over it"
            yield "LABEL008", "error", message, "put the larger region first, in labels and in regions_class_order"


def _file_names(contract: Contract) -> Iterator[Draft]:
    """Judge the names, which become parts of file names."""
    folded: dict[str, str] = {}
    names = [label.name for label in contract.labels.values() if label.name not in (BACKGROUND, IGNORE)]
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if not name or re.search(r"[/\\\x00-\x1f\x7f]", name):
            message = f"labels: {name!r} is unusable in a file name"
            yield "LABEL010", "error", message, "use letters, digits, - and _"
        elif not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            message = f"labels: {name!r} becomes part of a file name: SCT writes _{name}_seg"
            yield "LABEL014", "warning", message, "use letters, digits, - and _"
        if name.endswith("_seg"):
            message = f"labels: SCT's output for {name} ends in _seg_seg"
            yield "LABEL015", "warning", message, f"call it {name.removesuffix('_seg')}"
        if name == "canal_seg":
            yield (
                "LABEL016",
                "note",
                "labels: SCT keeps only the largest object of canal_seg",
                "call it canal to keep all",
            )
        if other != name:
            message = f"labels: {other} and {name} differ only in case, so their files collide on some systems"
            yield "LABEL018", "warning", message, "give them different names"


def _channel_findings(channels: Any) -> Iterator[Draft]:
    if not isinstance(channels, dict) or not channels:
        message = f"channel_names is {channels!r}, expected an object with a name for each channel"
        yield "CHANNEL001", "error", message, 'for example {"0": "T2w"}'
        return
    expected = [str(number) for number in range(len(channels))]
    if set(channels) != set(expected):
        message = (
            f"channel_names: the keys are {', '.join(map(repr, channels))}, expected {', '.join(map(repr, expected))}"
        )
        yield "CHANNEL001", "error", message, "nnU-Net counts the keys and reads the channels _0000, _0001 and so on"
    for key, name in channels.items():
        how = NORMALISATIONS.get(name.casefold()) if isinstance(name, str) else None
        if how:
            message = f"channel_names: nnU-Net normalises channel {key} {how}, because it is called {name}"
            yield "CHANNEL002", "note", message, "give it another name to have z-scores"


def _shown(label: Label) -> str:
    numbers: list[Any] = [str(value) for value in label.values] if label.is_text else list(label.values)
    return repr(numbers if label.is_list else numbers[0])


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
