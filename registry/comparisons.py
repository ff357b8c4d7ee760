"""Facts of two models, one function a subject: it yields what changed and what that means for users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import orientation
from registry.changes import Change
from registry.labels import NORMALISATIONS
from registry.model_facts import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.snapshots import ModelFacts

ERRORS = ("hd95_mm", "volume_difference_percent", "brier", "ece")  # measures that are best at zero


def _folder(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if _differ(old.trainer_folder, new.trainer_folder):
        yield _change("CHANGE001", "trainer folder", old.trainer_folder, new.trainer_folder)


def _output(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.suffixes is None or new.suffixes is None or set(old.suffixes) == set(new.suffixes):
        return
    before, after = ", ".join(old.suffixes), ", ".join(new.suffixes)
    place = new.places.get("labels", ("", None))
    gone = [suffix for suffix in old.suffixes if suffix not in new.suffixes]
    if gone:
        reason = f"scripts and tutorials that wait for {', '.join(gone)} find no file"
        yield Change(code="CHANGE002", what="SCT's files", old=before, new=after, reason=reason, place=place)
    else:
        yield Change(code="CHANGE022", what="SCT's files", old=before, new=after, place=place)


def _orientation(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if not _differ(old.orientation, new.orientation):
        return
    reason = "people who turn images by hand (3D Slicer, nnU-Net) get silently worse masks; is it the training images'?"
    if old.weights and old.weights == new.weights:
        reason = "the weights are the same, so one of the two is wrong: masks of that release are silently worse"
    said = [orientation.describe(code) if orientation.is_valid(code) else code for code in _both(old, new)]
    place = new.places.get("orientation", ("", None))
    yield Change(code="CHANGE003", what="orientation", old=said[0], new=said[1], reason=reason, place=place)


def _both(old: ModelFacts, new: ModelFacts) -> tuple[str, str]:
    return str(old.orientation), str(new.orientation)


def _channels(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.channels is None or new.channels is None or old.channels == new.channels:
        return
    before, after = ", ".join(old.channels.values()), ", ".join(new.channels.values())
    place = new.places.get("channels", ("", None))
    reason = ""
    if len(old.channels) != len(new.channels):
        reason = "images have to be given to it in another way, and SCT can give one only"
    elif sorted(old.channels.values()) == sorted(new.channels.values()):
        reason = "images that are given in the old order are taken for each other"
    elif [_normalised(name) for name in old.channels.values()] != [_normalised(n) for n in new.channels.values()]:
        reason = "nnU-Net chooses the normalisation by this name"
    code = "CHANGE004" if reason else "CHANGE023"
    yield Change(code=code, what="channels", old=before, new=after, reason=reason, place=place)


def _normalised(channel: str) -> str:
    return NORMALISATIONS.get(channel.lower(), "")


def _labels(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    for name in old.labels or {}:
        before, after = (old.labels or {})[name], (new.labels or {}).get(name)
        if after is not None and before != after:
            reason = "the numbers in a label map (nnU-Net, 3D Slicer, rootlets in SCT) mean other structures"
            if len(before) > 1 or len(after) > 1:
                reason = "the region is made of other parts: its mask means something else"
            values = ["+".join(str(value) for value in values) for values in (before, after)]
            place = new.places.get("labels", ("", None))
            what = f"values of {name}"
            yield Change(code="CHANGE005", what=what, old=values[0], new=values[1], reason=reason, place=place)


def _trainer(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if _differ(old.trainer, new.trainer):
        yield _change("CHANGE021", "trainer", old.trainer, new.trainer)
    if old.own_code is not None and new.own_code is not None and old.own_code != new.own_code:
        before, after = ("trainer_class.py" if own else "none" for own in (old.own_code, new.own_code))
        reason = "an SCT that is older than trainer_class.py cannot load it, and a program that wants no strange code"
        code = "CHANGE006" if new.own_code else "CHANGE021"
        yield Change(code=code, what="code of its own", old=before, new=after, reason=reason * new.own_code)


def _folds(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.folds is None or new.folds is None or old.folds == new.folds:
        return
    before, after = ", ".join(old.folds), ", ".join(new.folds)
    if ("all" in old.folds) != ("all" in new.folds):
        reason = "sct_deepseg -single-fold and scripts that name a fold stop"
        yield Change(code="CHANGE007", what="folds", old=before, new=after, reason=reason)
    else:
        counts = len(old.folds), len(new.folds)
        reason = "" if counts[0] == counts[1] else f"a prediction takes about {counts[1] / counts[0]:.2g} times as long"
        yield Change(code="CHANGE024", what="folds", old=before, new=after, reason=reason)


def _plans(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.plans_sha256 is not None and old.plans_sha256 == new.plans_sha256:
        return
    if old.network is None or new.network is None:
        if old.plans_sha256 and new.plans_sha256:
            yield _change("CHANGE025", "plans.json", old.plans_sha256[:12], new.plans_sha256[:12])
        return
    for word in dict.fromkeys([*old.network, *new.network]):
        before, after = old.network.get(word, "-"), new.network.get(word, "-")
        if before != after:
            place = new.places.get("network", ("", None))
            yield Change(code="CHANGE025", what=word, old=before, new=after, place=place)


def same_bytes(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    """Yield what is the same under another tag, and should not be."""
    if old.weights and old.weights == new.weights:
        reason = "a new release of old weights: SCT installs it again for everybody"
        yield Change(code="CHANGE026", what="weights", old="the same", new="the same", reason=reason)
    if old.sha256 and old.sha256 == new.sha256:
        reason = "the same bytes under another tag: SCT installs them again as a new model"
        yield Change(code="CHANGE027", what="archive", old="the same", new="the same", reason=reason)


def _weights(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if _differ(old.parameters, new.parameters):
        yield _change("CHANGE026", "parameters", f"{old.parameters:,}", f"{new.parameters:,}")
    if _differ(old.dtype, new.dtype):
        yield _change("CHANGE026", "type of the weights", old.dtype, new.dtype)


def _archive(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.size and new.size and _bytes(old.size) != _bytes(new.size):
        yield _change("CHANGE027", "size of the archive", _bytes(old.size), _bytes(new.size))
    if _differ(old.layout, new.layout):
        yield _change("CHANGE031", "layout", old.layout, new.layout)


def _crop(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.crop is None or new.crop is None or old.crop == new.crop:
        return
    before, after = (digest[:12] or "none" for digest in (old.crop, new.crop))
    if not new.crop:
        reason = "an SCT that crops images for this model stops at its first use"
        yield Change(code="CHANGE009", what="crop_metadata.json", old=before, new=after, reason=reason)
    else:
        reason = "" if old.crop else "SCT crops only where its entry of the model says cropped_image"
        yield Change(code="CHANGE032", what="crop_metadata.json", old=before, new=after, reason=reason)


def _metrics(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.metrics is None or new.metrics is None:
        return
    same = (old.metrics.dataset, old.metrics.split, old.metrics.cases) == (
        new.metrics.dataset, new.metrics.split, new.metrics.cases,
    )  # fmt: skip
    other = "" if same else f", but on other cases: {_cases(old)} then, {_cases(new)} now"
    for label, values in new.metrics.mean.items():
        for key, (word, decimals) in MEASURES.items():
            before, after = old.metrics.mean.get(label, {}).get(key), values.get(key)
            if before is not None and after is not None and round(before - after, decimals):
                said = f"{before:.{decimals}f}", f"{after:.{decimals}f}"
                reason = f"{'better' if _better(key, before, after) else 'worse'}{other}"
                yield Change(code="CHANGE028", what=f"{word} of {label}", old=said[0], new=said[1], reason=reason)


def _better(measure: str, old: float, new: float) -> bool:
    """Whether a measure rose, or came nearer to zero where it is a distance, a difference or an error."""
    return abs(new) < abs(old) if measure in ERRORS else new > old


def _cases(model: ModelFacts) -> str:
    metrics = model.metrics
    return f"{metrics.cases} of {metrics.dataset}{f' ({metrics.split})' * bool(metrics.split)}" if metrics else ""


def _data(old: ModelFacts, new: ModelFacts) -> Iterator[Change]:
    if old.data is not None and new.data is not None and old.data != new.data:
        before, after = (f"{name}, {count} cases" for name, count in (old.data, new.data))
        yield Change(code="CHANGE029", what="training data", old=before, new=after)
    for name in old.versions or {}:
        versions = (old.versions or {})[name], (new.versions or {}).get(name)
        if _differ(*versions):
            yield _change("CHANGE034", f"trained with {name}", *versions)


COMPARISONS = (
    _folder, _output, _orientation, _channels, _labels, _trainer, _folds, _plans, _weights, _archive, _crop, _metrics,
    _data,
)  # fmt: skip


def _differ(old: object, new: object) -> bool:
    """Whether both are known and not the same."""
    return old is not None and new is not None and old != new


def _change(code: str, what: str, old: object, new: object) -> Change:
    return Change(code=code, what=what, old=str(old), new=str(new))


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
