"""Deflate and CRC-32: ISA-L's where it is installed (`mreg[train]` brings it: twice as fast), else zlib's."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from typing import Any

engine: Any = importlib.import_module("isal.isal_zlib") if importlib.util.find_spec("isal") else zlib
ERRORS: tuple[type[Exception], ...] = (zlib.error, engine.error)


def crc32(data: Any, start: int = 0) -> int:
    """Return the CRC-32 of bytes that follow those with the CRC-32 `start`."""
    return int(engine.crc32(data, start))


def inflater() -> Any:
    """Return an object that inflates a zip's deflated member, as `zlib.decompressobj` makes it."""
    return engine.decompressobj(-15)
