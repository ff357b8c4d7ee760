"""What a ref is, and bytes that come whole or not at all, however often the line breaks."""

import errno
import hashlib
import io
import os
import shutil

import pytest
from fixtures_stores import NAME
from zips import files_below

from registry import transfer
from registry.errors import ConflictError, IntegrityError, MregError
from registry.refs import FileRef, RepoRef, parse
from registry.transfer import Interrupted, Source, download


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))


# --- refs ------------------------------------------------------------------------------------------------------------


def test_a_bare_word_is_a_name_even_where_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert parse(NAME) == RepoRef(NAME)
    assert parse(f"{NAME}@v1.0") == RepoRef(NAME, "v1.0")
    assert isinstance(parse(f"./{NAME}"), FileRef)
    assert parse((tmp_path / NAME).as_uri()) == FileRef(tmp_path / NAME)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("model_seg_sc_t2@", "no tag after @"),
        ("missing.zip", "no such file"),
        ("org/repo", "no such file"),
        ("http://example.org/a.zip", "not encrypted"),
        ("https://me:secret@example.org/a.zip", "address with a password for example.org"),
        ("ftp://example.org/a.zip", "not an address"),
        ("https:///a.zip", "not an address"),
        ("https://[/a.zip", "not an address"),
        ("file:///no/such/file.zip", "no such file"),
    ],
)
def test_what_is_no_ref_is_one_error_without_secrets(text, word):
    with pytest.raises(MregError, match=word) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


# --- transfers -------------------------------------------------------------------------------------------------------


class Wire:
    """A source in memory that breaks where it is told and counts what it gave."""

    def __init__(self, data, *, breaks=()):
        self.data, self.breaks, self.given, self.opened = data, list(breaks), 0, []

    def source(self, **changes):
        digest = hashlib.sha256(self.data).hexdigest()
        fields = {"label": "a.bin", "identity": digest, "size": len(self.data), "sha256": digest, "open": self.open}
        return Source(**{**fields, **changes})

    def open(self, offset):
        self.opened.append(offset)
        return _Stream(self, offset)


class _Stream(io.RawIOBase):
    def __init__(self, wire, offset):
        self.wire, self.position = wire, offset

    def readable(self):
        return True

    def readinto(self, buffer):
        limit = min([b for b in self.wire.breaks if b >= self.position], default=len(self.wire.data))
        data = self.wire.data[self.position : min(self.position + len(buffer), limit)]
        if not data and limit < len(self.wire.data):
            self.wire.breaks.remove(limit)
            raise Interrupted("cable pulled")
        buffer[: len(data)] = data
        self.position += len(data)
        self.wire.given += len(data)
        return len(data)


DATA = os.urandom(3_000_000)


def test_a_download_that_breaks_goes_on_and_no_byte_comes_twice(tmp_path):
    wire = Wire(DATA, breaks=[1_000_000, 1_000_001, 2_500_000])
    assert download(wire.source(), tmp_path / "a.bin") == hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert wire.given == len(DATA)
    assert wire.opened == [0, 1_000_000, 1_000_001, 2_500_000]


def test_a_download_that_gives_up_is_continued_by_the_next_call(tmp_path):
    wire = Wire(DATA, breaks=[1_200_000] * 10)
    with pytest.raises(IntegrityError, match="ended after 1200000 of 3000000 bytes"):
        download(wire.source(), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    wire.breaks.clear()
    download(wire.source(), tmp_path / "a.bin")
    assert wire.given == len(DATA)
    assert files_below(tmp_path) == ["a.bin"]


def test_a_part_of_another_version_is_not_continued(tmp_path):
    wire = Wire(DATA, breaks=[1_200_000] * 10)
    with pytest.raises(IntegrityError):
        download(wire.source(identity="old" * 10), tmp_path / "a.bin")
    other = Wire(DATA[::-1])
    download(other.source(), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA[::-1]
    assert files_below(tmp_path) == ["a.bin"]


def test_a_spoiled_part_costs_one_more_download_and_no_wrong_file(tmp_path):
    wire = Wire(DATA, breaks=[1_200_000] * 10)
    with pytest.raises(IntegrityError):
        download(wire.source(), tmp_path / "a.bin")
    (part,) = tmp_path.iterdir()
    part.write_bytes(bytes(part.stat().st_size))
    wire.breaks.clear()
    download(wire.source(), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert wire.opened[-2:] == [1_200_000, 0]


@pytest.mark.parametrize("change", [{"sha256": "ab" * 32}, {"size": len(DATA) + 1}, {"size": len(DATA) - 1}])
def test_other_bytes_than_promised_leave_no_file(tmp_path, change):
    with pytest.raises(IntegrityError, match=r"SHA-256|expected"):
        download(Wire(DATA).source(**change), tmp_path / "a.bin")
    assert files_below(tmp_path) == []


def test_a_file_that_is_there_is_verified_and_never_overwritten(tmp_path):
    (tmp_path / "a.bin").write_bytes(DATA)
    wire = Wire(DATA)
    download(wire.source(), tmp_path / "a.bin")
    assert wire.opened == []
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(ConflictError, match="another file of that name"):
        download(wire.source(), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_a_disk_without_room_is_noticed_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    wire = Wire(DATA)
    with pytest.raises(OSError, match="No space") as caught:
        download(wire.source(), tmp_path / "a.bin")
    assert caught.value.errno == errno.ENOSPC
    assert wire.given == 0


def test_a_disk_that_fills_up_keeps_the_part_and_the_next_call_continues(tmp_path, monkeypatch):
    wire = Wire(DATA, breaks=[2_000_000])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            download(wire.source(), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    download(wire.source(), tmp_path / "a.bin")
    assert wire.given == len(DATA)
