"""Withdrawing a release: it stays downloadable, and everybody who asks for it is told why not to use it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry import notes, refs
from registry.errors import IntegrityError, MregError
from registry.published import find_published, list_releases

if TYPE_CHECKING:
    from registry.stores import Release, Store

MAX_REASON = 500  # characters


@dataclass(frozen=True, kw_only=True)
class Yanked:
    """What became of a release."""

    ref: str
    reason: str  # "" where it may be used again
    changed: bool  # whether the registry was written to
    url: str
    next: str  # tag of the newest good release, "" where none is left

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg yank --json`."""
        return {**vars(self), "yanked": bool(self.reason)}


def yank(text: str, store: Store, *, reason: str = "", undo: bool = False) -> Yanked:
    """Write into a release's notes that it should not be used, and why; with `undo`, take that back.

    Assets, tag and manifest stay as they are: whoever has it can still verify it. Run again with the same reason it
    writes nothing. Raises `MregError` for a ref without a tag or without a reason, `NotFoundError`.
    """
    ref = refs.parse(text)
    if not isinstance(ref, refs.RepoRef) or not ref.tag:
        raise MregError(f"{text!r}: say which release", hint="mreg yank NAME@TAG --reason TEXT")
    wanted = "" if undo else _reason(reason)
    releases = list_releases(ref.name, store)
    release = find_published(ref, releases, store.location)
    block = notes.parse_block(release.notes)
    text_now = notes.write_warning(release.notes, wanted)
    if block.yanked != wanted:
        text_now = notes.write_block(text_now, replace(block, yanked=wanted))
    changed = text_now != release.notes
    if changed:
        written = store.set_notes(release, text_now)
        if notes.parse_block(written.notes).yanked != wanted:
            raise IntegrityError(f"{ref}: the registry has not kept the notes", hint="run the same command again")
    after = [replace(r, notes=text_now) if r.id == release.id else r for r in releases]
    return Yanked(ref=str(ref), reason=wanted, changed=changed, url=release.url, next=_newest_good(after))


def _reason(text: str) -> str:
    reason = " ".join(text.split())
    if not reason:
        raise MregError("no reason", hint='people will ask: --reason "left and right are swapped"')
    if len(reason) > MAX_REASON:
        raise MregError(f"the reason has {len(reason)} characters", hint=f"{MAX_REASON} are allowed")
    return reason


def _newest_good(releases: list[Release]) -> str:
    good = (r.tag for r in releases if not r.draft and not notes.block_of(r).yanked)
    return next(good, "")
