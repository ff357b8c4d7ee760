"""What a person writes to name a published model: a name, a name with a tag, a path or an address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from registry.errors import MregError, NotFoundError
from registry.files import expanded
from registry.near import meant_path

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class RepoRef:
    """A model of the registry; without a tag its newest release."""

    name: str
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.tag}" if self.tag else self.name


@dataclass(frozen=True)
class FileRef:
    """An archive, or the folder that one was unpacked to."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class UrlRef:
    """The address of an archive."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def file_name(self) -> str:
        """Return the last part of the address's path."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


Ref = RepoRef | FileRef | UrlRef


def parse(text: str) -> Ref:
    """Read a ref. A bare word is always a name, so that a folder of that name does not hide the registry's model.

    Raises `NotFoundError` for a path that is not there and `MregError` for what is no ref at all.

    >>> parse("model_seg_sc_t2@r20240915")
    RepoRef(name='model_seg_sc_t2', tag='r20240915')
    >>> parse("https://example.org/models/a.zip").file_name
    'a.zip'
    """
    if "://" in text:
        return _parse_url(text)
    name, at, tag = text.partition("@")
    if _NAME.fullmatch(name) and not name.startswith(".") and not text.lower().endswith(".zip"):
        if at and not tag:
            raise MregError(f"{text!r}: no tag after @", hint=f"write {name}@r20240915, or {name} for the newest")
        return RepoRef(name, tag)
    path = expanded(text)
    if not text or not path.exists():
        raise NotFoundError(
            f"{text!r}: no such file",
            hint=meant_path(path)
            or "name a model (NAME, NAME@TAG), the path of an archive or of a run, or an address (https://…)",
        )
    return FileRef(path)


def _parse_url(text: str) -> Ref:
    parts = split(text)
    host = parts.hostname or ""
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        if host not in ("", "localhost") or not path.exists():
            raise NotFoundError(f"{text!r}: no such file")
        return FileRef(path)
    if parts.username or parts.password:
        raise MregError(
            f"address with a password for {host}", hint="leave it out; a token goes into the variable GITHUB_TOKEN"
        )
    if not host or parts.scheme not in ("https", "http"):
        raise MregError(f"{text!r}: not an address of a file", hint="write https://HOST/PATH/ARCHIVE.zip")
    require_safe(text)
    return UrlRef(text)


def split(url: str) -> SplitResult:
    """Return the parts of an address; raise `MregError` where host or port can be none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise MregError(f"{url!r}: not an address: {error}") from error
    return parts


def require_safe(url: str) -> None:
    """Raise `MregError` unless the address is encrypted, or on this machine."""
    parts = split(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise MregError(
            f"{url!r}: not encrypted: anybody on the way could change the archive", hint="use an https:// address"
        )
