"""Rules on checkpoints: whole, inert, finite and slim. They are read by mreg's own parser; nothing is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry import checkpoints
from registry.checks.rules import rule
from registry.errors import MregError
from registry.pickles import Call
from registry.scrub import CASE_LISTS, paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model_files import ModelFiles

Draft = tuple[str, str, str]
# What nnU-Net's own checkpoints hold before mreg slims them: none of these does anything but make a value.
HARMLESS = {
    "numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar", "_codecs.encode", "torch.device",
}  # fmt: skip
SHOWN = 5
MOST_NODES = 1_000_000


@rule("CKPT001")
def checkpoint_is_whole(model: ModelFiles) -> Iterator[Draft]:
    """Each checkpoint can be read to its end and is nnU-Net's."""
    for path, found in model.checkpoints.items():
        if isinstance(found, MregError):
            yield path, found.message.removeprefix(f"{path}: "), found.hint or "pack or fetch it again"


@rule("CKPT002")
def checkpoint_executes_nothing(model: ModelFiles) -> Iterator[Draft]:
    """A checkpoint calls nothing when it is loaded, whoever loads it."""
    for path, contents in model.parsed.items():
        dangerous = [name for name in contents.unsafe if name not in HARMLESS]
        if dangerous:
            yield path, f"would call {_listed(dangerous)} when it is loaded", "do not load it, and ask who made it"


@rule("CKPT003")
def checkpoint_is_inert(model: ModelFiles) -> Iterator[Draft]:
    """A released checkpoint loads with weights_only=True."""
    for path, contents in model.parsed.items() if model.released else ():
        calls = list(contents.unsafe)
        if calls and HARMLESS.issuperset(calls):
            yield path, f"torch refuses it with weights_only=True: {_listed(calls)}", "mreg package slims it"


@rule("CKPT004")
def weights_are_numbers(model: ModelFiles) -> Iterator[Draft]:
    """No weight is NaN or infinite, not all are zero, and the bytes are those that were saved."""
    for path, found in model.described.items():
        try:
            weights = model.weights_of(path)
        except MregError as error:
            yield path, error.message.removeprefix(f"{path}: "), error.hint
            continue
        if weights.damaged:
            what = f"damaged: storages {_listed(list(weights.damaged))} have other bytes than their checksums say"
            yield path, what, "copy it again from where it was trained"
        if bad := checkpoints.bad_weights(found, weights):
            what = bad[0] if weights.all_zero else f"NaN or infinity in {_listed(bad)}"
            yield path, what, "the training diverged, or the file is damaged: train or pack it again"


@rule("CKPT005", "warning")
def checkpoint_is_slim(model: ModelFiles) -> Iterator[Draft]:
    """A released checkpoint holds no optimiser state."""
    for path, found in model.described.items():
        if model.released and "optimizer_state" in found.keys:
            yield path, "holds the optimiser's state: about twice the size", "mreg package leaves it out"


@rule("CKPT006")
def checkpoint_tells_nothing(model: ModelFiles) -> Iterator[Draft]:
    """A released checkpoint names no path of the machine and no case that it was trained on."""
    for path, contents in model.parsed.items() if model.released else ():
        texts, lists = _told(contents.document)
        if texts:
            yield path, f"names paths: {_listed(texts)}", "mreg package takes them out"
        if lists:
            yield path, f"lists cases under {_listed(lists)}", "mreg package takes them out"


RULES = [
    checkpoint_is_whole, checkpoint_executes_nothing, checkpoint_is_inert, weights_are_numbers, checkpoint_is_slim,
    checkpoint_tells_nothing,
]  # fmt: skip


def _told(document: Any) -> tuple[list[str], list[str]]:
    """Return the texts with absolute paths and the keys of lists of cases in a parsed pickle."""
    texts: dict[str, None] = {}
    lists: dict[str, None] = {}
    rest, seen = [document], 0
    known: set[int] = set()
    while rest and seen < MOST_NODES:
        node, seen = rest.pop(), seen + 1
        if isinstance(node, str):
            if paths(node) != node:
                texts[node[:80]] = None
            continue
        if id(node) in known:
            continue
        known.add(id(node))
        if isinstance(node, dict):
            lists |= dict.fromkeys(key for key in CASE_LISTS if isinstance(node.get(key), list) and node[key])
            rest += [*node.keys(), *node.values()]
        elif isinstance(node, list | tuple | set | frozenset):
            rest += node
        elif isinstance(node, Call):
            rest += [node.arguments, node.elements, node.items, node.state]
    return sorted(texts), sorted(lists)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
