"""The errors that mreg raises on purpose; `cli` turns them into a message and an exit status."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class MregError(Exception):
    """Something that the user can understand and mend.

    The message names the file and the value; the hint is the way out.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFoundError(MregError):
    """A repo, release, asset or file that is not there."""


class ConflictError(MregError):
    """Something is there already, with other content."""


class IntegrityError(MregError):
    """Bytes that are not what they should be: a digest, a size, a truncated or unsafe file."""


class AccessError(MregError):
    """The registry refuses: no token, a bad one, or one without the permission."""


class StoppedError(MregError):
    """Long work that was told to stop and has saved where it stands; the same call goes on."""

    def __init__(self, message: str, *, hint: str = "", signals: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.signals = signals  # names of those that this process received meanwhile


class RegistryError(MregError):
    """The registry cannot be reached or answers with something else than expected."""


@contextmanager
def expecting(who: str, hint: str) -> Iterator[None]:
    """Turn the failure to read a server's answer into one error: it lacks something that it always has."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RegistryError(
            f"{who} answers with something else than expected: {type(error).__name__}: {error}", hint=hint
        ) from error
