"""One pass over an archive: whatever its bytes can tell, with every byte read from the disk once.

The file is read from its first byte to its last, cut where members and the storages inside checkpoints begin. A second
thread computes the digest of the whole file, beside what the members want: CRC, digest, the checks of the weights.
"""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.inflate import ERRORS, crc32, inflater
from registry.unpack import HARMLESS_BYTES, MAX_RATIO
from registry.weights import summary
from registry.windows import ENCRYPTED, data_start

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.weights import Probe, Weights

PIECE = 1 << 20
BUFFERS = 4
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class MemberFacts:
    """What a member's bytes say."""

    sha256: str  # "" where nobody asked, or where it is damaged
    damage: str  # why it cannot be read to its end, "" where it can


@dataclass(frozen=True)
class Survey:
    """What an archive's bytes say."""

    sha256: str = ""  # of the whole file, "" where nobody asked
    members: Mapping[str, MemberFacts] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)  # of the checkpoints that probes were given for


class _Pieces:
    """Reads a file once, in buffers that go round, and hashes all of it in a thread of its own if asked to."""

    def __init__(self, file: IO[bytes], thread: ThreadPoolExecutor | None) -> None:
        self._file, self._thread = file, thread
        self._whole = hashlib.sha256()
        self._buffers = [memoryview(bytearray(PIECE)) for _ in range(BUFFERS)]
        self._pending: list[Future[None] | None] = [None] * BUFFERS
        self._turn = 0
        file.seek(0)

    def take(self, count: int) -> Iterator[memoryview]:
        """Yield the next `count` bytes; each piece is good until the next one."""
        while count:
            self._turn = (self._turn + 1) % BUFFERS
            if (hashing := self._pending[self._turn]) is not None:
                hashing.result()  # the thread still needs what is in the buffer
            piece = self._buffers[self._turn][: min(count, PIECE)]
            if (length := self._file.readinto(piece)) == 0:  # type: ignore[attr-defined]
                raise EOFError("the file became shorter while it was read")
            piece = piece[:length]
            count -= length
            if self._thread is not None:
                self._pending[self._turn] = self._thread.submit(self._whole.update, piece)
            yield piece

    def digest(self) -> str:
        """Return the digest of everything that was taken, "" where nobody asked for it."""
        for hashing in self._pending:
            if hashing is not None:
                hashing.result()
        return self._whole.hexdigest() if self._thread is not None else ""


class _Member:
    """Takes the packed bytes of a member in order."""

    def __init__(self, info: zipfile.ZipInfo, *, digest: bool, copy: IO[bytes] | None) -> None:
        self.info = info
        self.damage = ""
        self._digest = hashlib.sha256() if digest else None
        self._crc, self._count, self._copy = 0, 0, copy
        self._inflater = inflater() if info.compress_type == zipfile.ZIP_DEFLATED else None

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes."""
        if self.damage:
            return
        if self._inflater is None:
            self._take(piece)
            return
        rest: Any = piece
        try:
            while not self._inflater.eof and not self.damage:
                data = self._inflater.decompress(rest, PIECE)
                self._take(data)
                rest = self._inflater.unconsumed_tail
                if not rest and len(data) < PIECE:
                    break
        except ERRORS as error:
            self.damage = f"damaged: {error}"

    def _take(self, data: Any) -> None:
        self._count += len(data)
        if self._count > self.info.file_size:
            self.damage = f"damaged: more than the {self.info.file_size} bytes that its entry says"
            return
        self._crc = crc32(data, self._crc)
        if self._digest is not None:
            self._digest.update(data)
        if self._copy is not None:
            self._copy.write(data)

    def facts(self) -> MemberFacts:
        """Return what the bytes say, all of which have been taken."""
        if not self.damage and self._count != self.info.file_size:
            self.damage = f"damaged: {self._count} bytes, its entry says {self.info.file_size}"
        if not self.damage and self._crc != self.info.CRC:
            self.damage = "damaged: other bytes than its checksum (CRC-32) says"
        good = not self.damage and self._digest is not None
        return MemberFacts(self._digest.hexdigest() if good and self._digest else "", self.damage)


@dataclass(frozen=True)
class _Span:
    """A part of the file and who wants it."""

    start: int
    end: int
    member: _Member | None = None
    probe: Probe | None = None


def survey(
    file: IO[bytes],
    infos: Sequence[zipfile.ZipInfo],
    probes: Mapping[str, Sequence[Probe]],
    *,
    digests: bool,
    copies: Mapping[str, IO[bytes]],
) -> Survey:
    """Read a zip archive once, from an unbuffered file.

    `probes` are those of stored checkpoints, by member, in the order of their places; `copies` are files that deflated
    members are written to, because what lies in them can only be found there. `digests` asks for those of the whole
    file and of each member. A member that is damaged, or that no honest archive has, gets a `damage` and is not read.
    """
    size = file.seek(0, 2)
    facts: dict[str, MemberFacts] = {}
    spans = list(_spans(file, infos, probes, facts, digests=digests, copies=copies))
    thread = ThreadPoolExecutor(1, "sha256") if digests else None
    try:
        pieces = _Pieces(file, thread)
        for span in _without_gaps(spans, size):
            for piece in pieces.take(span.end - span.start):
                if span.member is not None:
                    span.member.feed(piece)
                if span.probe is not None:
                    span.probe.feed(piece)
        whole = pieces.digest()
    except (EOFError, OSError) as error:
        raise IntegrityError(str(error), hint="copy or fetch the archive again") from error
    finally:
        if thread is not None:
            thread.shutdown()
    members = {span.member.info.filename: span.member for span in spans if span.member is not None}
    facts |= {name: member.facts() for name, member in members.items()}
    weights = {path: summary(found) for path, found in probes.items() if path in members}
    return Survey(whole, facts, weights)


def _spans(
    file: IO[bytes],
    infos: Sequence[zipfile.ZipInfo],
    probes: Mapping[str, Sequence[Probe]],
    facts: dict[str, MemberFacts],
    *,
    digests: bool,
    copies: Mapping[str, IO[bytes]],
) -> Iterator[_Span]:
    """Yield the parts that are wanted, in order and apart; what is wrong with the other members goes into `facts`."""
    size, end = file.seek(0, 2), 0
    modest = sum(info.file_size for info in infos) <= max(HARMLESS_BYTES, MAX_RATIO * size)
    for info in sorted(infos, key=lambda info: info.header_offset):
        try:
            start = _start(file, info, range(end, size), modest=modest)
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            facts[info.filename] = MemberFacts("", f"damaged: {error}")
            continue
        member = _Member(info, digest=digests, copy=copies.get(info.filename))
        at, end = start, start + info.compress_size
        for probe in probes.get(info.filename, ()):
            first = start + probe.place.start
            yield _Span(at, first, member)
            at = first + probe.place.size
            yield _Span(first, at, member, probe)
        yield _Span(at, end, member)


def _start(file: IO[bytes], info: zipfile.ZipInfo, free: range, *, modest: bool) -> int:
    """Return where a member's data begin; raise `BadZipFile` unless it can be read and lies in the `free` bytes."""
    if info.flag_bits & ENCRYPTED:
        raise zipfile.BadZipFile("it is encrypted")
    if info.compress_type not in METHODS:
        raise zipfile.BadZipFile(f"it is compressed by method {info.compress_type}, which not every program can undo")
    grown = info.file_size > max(HARMLESS_BYTES, MAX_RATIO * info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED and (grown or not modest):
        raise zipfile.BadZipFile(f"{info.compress_size} bytes that would become {info.file_size}")
    start = data_start(file, info)
    if start + info.compress_size > free.stop:
        raise zipfile.BadZipFile("it goes beyond the file's end")
    if start < free.start:
        raise zipfile.BadZipFile("it overlaps the member before it")
    return start


def _without_gaps(spans: Sequence[_Span], size: int) -> Iterator[_Span]:
    """Yield the spans, and what nobody wants between them."""
    at = 0
    for span in spans:
        yield _Span(at, span.start)
        yield span
        at = span.end
    yield _Span(at, size)
