"""The texts that a PNG carries beside its picture."""

from __future__ import annotations

import struct
import zlib

from registry.scrub import PNG_START

LONGEST = 1 << 20  # bytes of a text when inflated


def texts(data: bytes) -> list[tuple[str, str]]:
    """Return kind and text of each textual chunk of a PNG, in order; of a damaged one those that can be reached.

    tEXt is `keyword NUL text`, zTXt `keyword NUL method deflated`, iTXt `keyword NUL flag method language NUL keyword
    again NUL text` (PNG specification, 11.3.3). eXIf is read as the printable runs in it.
    """
    found = []
    position = len(PNG_START)
    while data.startswith(PNG_START) and position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + length]
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            found.append((kind.decode(), _text(kind, body)))
        position += 12 + length
    return found


def _text(kind: bytes, body: bytes) -> str:
    if kind == b"eXIf":
        return "".join(chr(byte) if 32 <= byte < 127 else " " for byte in body)  # noqa: PLR2004 - printable ASCII
    keyword, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        rest = _inflated(rest[1:])
    elif kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        rest = _inflated(rest) if compressed else rest
    encoding = "utf-8" if kind == b"iTXt" else "latin-1"
    return f"{keyword.decode('latin-1')}: {rest.decode(encoding, 'replace')}"


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, LONGEST)
    except zlib.error:
        return b""
