"""Two hundred broken archives, datasets, runs and JSON files, broken by chance from good ones.

Whatever the bytes, `check` gives findings or one `MregError`, soon, and writes nothing outside its temporary folder.
The seeds are fixed: what fails once fails again, under the same name.
"""

import io
import json
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fixtures_dataset import write_dataset
from fixtures_run import TRAINER_FOLDER

from registry import annotations, sarif
from registry.checks import check, every_kind
from registry.commands.check import _show
from registry.errors import MregError
from registry.unpack import unpack_safely

LONGEST = 10  # seconds for one target; a whole check takes a tenth of one
ARCHIVES, CHECKPOINTS, DATASETS, DOCUMENTS, KEYS = 60, 30, 35, 45, 30
CHECKPOINT = f"{TRAINER_FOLDER}/fold_0/checkpoint_final.pth"
END, ENTRY, HEADER = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
SIZES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, float("nan"), 10**400, "", "x", "\ud800", "../../x", "\0", "a" * 5000, [], {}, [[]],
    [None], {"": None}, {"0": {"0": {}}}, [10**30], ["background", 0],
)  # fmt: skip
COUNT = ARCHIVES + CHECKPOINTS + DATASETS + DOCUMENTS + KEYS


MAKING = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.move", "shutil.copyfile"}
STARTING = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}


class Written:
    """Every place that this process opens for writing, makes, renames or links to, as Python itself reports it."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.started: list[str] = []
        self.watching = False
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take one report of the interpreter."""
        if not self.watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.places.append(os.path.realpath(os.fsdecode(path)))
        elif event in MAKING:
            last = arguments[0] if event in ("os.mkdir", "os.truncate") else arguments[1]
            self.places.append(os.path.realpath(os.fsdecode(last)))
        elif event in STARTING:
            self.started.append(f"{event} {arguments[0]}")


WRITTEN = Written()


@contextmanager
def watched(name: str, folder: Path) -> Iterator[None]:
    """Fail on what takes too long, starts a program, or writes anywhere but in the folder."""

    def stop(*_: object) -> None:
        raise AssertionError(f"{name} takes more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    WRITTEN.places, WRITTEN.started, WRITTEN.watching = [], [], True
    try:
        yield
    finally:
        WRITTEN.watching = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not WRITTEN.started, name
    outside = [place for place in WRITTEN.places if not place.startswith(f"{folder.resolve()}/")]
    assert not [place for place in outside if not place.endswith(".pyc") and "__pycache__" not in place], name


def judge(name: str, target: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Check a broken target and write its report in every form; return the number of findings, 1 for an error."""
    with watched(name, folder):
        try:
            report = check(target)
        except MregError:
            return 1
        forms = [report.as_json(), sarif.document(report, every_kind()), list(annotations.lines(report))]
        for form in forms:
            json.dumps(form).encode()
        _show(report)
        capsys.readouterr().out.encode()
    return len(report.findings)


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """Let temporary files lie in the test's own folder; no torch is there, so that no process is started for it."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr("registry.workers.installed", lambda: False)
    monkeypatch.chdir(place)
    return tmp_path


@pytest.fixture(scope="module")
def members(tiny_package) -> dict[str, bytes]:
    """Return name → bytes of a good archive, its figure left out: it is most of the bytes and the least of the risk."""
    with zipfile.ZipFile(tiny_package.archive) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith(".png")}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def flipped(data: bytes, chance: Random) -> bytes:
    new = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)
    return bytes(new)


def cut(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data))]


def without_a_part(data: bytes, chance: Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:first] + data[last:]


def swapped(data: bytes, chance: Random) -> bytes:
    a, b, c, d = sorted(chance.choices(range(len(data)), k=4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def repeated(data: bytes, chance: Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:last] + data[first:]


def emptied(data: bytes, chance: Random) -> bytes:
    first, last = sorted(chance.choices(range(len(data)), k=2))
    return data[:first] + bytes(last - first) + data[last:]


BYTES = (flipped, cut, without_a_part, swapped, repeated, emptied)


def places(data: bytes, mark: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(mark), data)]


def wrong_directory(data: bytes, chance: Random) -> bytes:
    """Return a zip whose end record points elsewhere or counts otherwise."""
    new, at = bytearray(data), data.rindex(END)
    where, size = chance.choice([(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)])
    new[at + where : at + where + size] = chance.randbytes(size)
    return bytes(new)


def wrong_entry(data: bytes, chance: Random) -> bytes:
    """Return a zip whose directory has other numbers: version, flags, method, lengths, attributes, offset."""
    new, at = bytearray(data), chance.choice(places(data, ENTRY))
    where, size = chance.choice([(6, 2), (8, 2), (10, 2), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)])
    new[at + where : at + where + size] = chance.randbytes(size)
    return bytes(new)


def huge_sizes(data: bytes, chance: Random) -> bytes:
    """Return a zip whose entries and headers declare other sizes."""
    new = bytearray(data)
    for mark, where in ((ENTRY, 20), (HEADER, 18)):
        for at in places(data, mark):
            if chance.random() < 0.5:
                struct.pack_into("<II", new, at + where, chance.choice(SIZES), chance.choice(SIZES))
    return bytes(new)


def wrong_names(data: bytes, chance: Random) -> bytes:
    """Return a zip with a name that leads elsewhere, of the same length, in header and directory."""
    names = [
        b"../../../",
        b"/etc/cron",
        b"C:\\Users\\",
        b"a/../../b",
        b"a\0b/../..",
        b"\xff\xfe\x00\x01\x02\x03\x04\x05",
    ]
    name = chance.choice(names)
    return data.replace(TRAINER_FOLDER.encode()[: len(name)], name)


STRUCTURE = (wrong_directory, wrong_entry, huge_sizes, wrong_names)


def nested(data: bytes, chance: Random) -> bytes:
    depth = chance.choice([200, 5000, 200_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opening * depth + b"1" + closing * depth


def not_utf8(data: bytes, chance: Random) -> bytes:
    at = data.index(b'"') + 1
    return data[:at] + chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"\x1b[2J"]) + data[at:]


def other_encoding(data: bytes, chance: Random) -> bytes:
    return data.decode().encode(chance.choice(["utf-16", "utf-32", "utf-8-sig", "utf-16-le"]))


def other_document(data: bytes, chance: Random) -> bytes:
    return json.dumps(chance.choice(WRONG)).encode()


def wrong_values(data: bytes, chance: Random, share: float = 0.02) -> bytes:
    """Return a document with values of other types, at any depth."""

    def change(node: Any) -> Any:
        if chance.random() < share:
            return chance.choice(WRONG)
        if isinstance(node, dict):
            return {key: change(value) for key, value in node.items()}
        return [change(value) for value in node] if isinstance(node, list) else node

    return json.dumps(change(json.loads(data))).encode()


TEXTS = (*BYTES, nested, not_utf8, other_encoding, other_document, wrong_values, wrong_values, wrong_values)


def fixed(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - nothing is kept secret by it


def broken(number: int, ways: tuple[Callable[[bytes, Random], bytes], ...]) -> tuple[str, Callable[[bytes], bytes]]:
    """Return the name of a way to break bytes and the way itself."""
    way = ways[number % len(ways)]
    return f"{way.__name__} {number}", lambda data: way(data, fixed(number))


def test_archives(members, scratch, capsys):
    good = [packed(members), packed(members, zipfile.ZIP_DEFLATED)]
    target = scratch / "model_seg_sc_t2-r20260131.zip"
    found = 0
    for number in range(ARCHIVES):
        name, change = broken(number, (*BYTES, *STRUCTURE))
        target.write_bytes(change(good[number // 10 % 2]))
        found += bool(judge(name, target, scratch, capsys))
        with watched(name, scratch), suppress(MregError):
            unpack_safely(target, scratch / "out" / str(number))
    assert found > ARCHIVES * 0.75  # deflate's padding and unused fields of a directory may say what they like


def test_checkpoints_in_whole_archives(members, scratch, capsys):
    """The zip around it is right: only what reads the checkpoint can notice."""
    target = scratch / "model_seg_sc_t2-r20260131.zip"
    found = 0
    for number in range(CHECKPOINTS):
        name, change = broken(number, (*BYTES, *STRUCTURE[:3]))
        target.write_bytes(packed({**members, CHECKPOINT: change(members[CHECKPOINT])}))
        found += bool(judge(name, target, scratch, capsys))
    assert found > CHECKPOINTS * 0.75


def test_datasets(scratch, capsys):
    dataset = write_dataset(scratch / "data")
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    found = 0
    for number in range(DATASETS):
        path = files[fixed(number).randrange(len(files))]
        good = path.read_bytes()
        name, change = broken(number, TEXTS if path.suffix == ".json" else BYTES)
        path.write_bytes(change(good))
        found += bool(judge(f"{name} {path.name}", dataset, scratch, capsys))
        path.write_bytes(good)
    assert not check(dataset).findings
    assert found > DATASETS * 0.6  # another value of a free text or a header's unused field breaks nothing


@pytest.fixture
def broken_documents(tiny_run, tiny_package, scratch) -> list[tuple[Path, Path]]:
    """Return file and target: the documents of a run, and the manifest beside an archive."""
    run, beside = scratch / "run", scratch / "beside"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("*.png", "checkpoint_*"))
    beside.mkdir()
    archive = Path(shutil.copy(tiny_package.archive, beside))
    manifest = Path(shutil.copy(tiny_package.manifest, beside))
    return [*((path, run) for path in sorted(run.rglob("*.json"))), (manifest, archive)]


def test_documents(broken_documents, scratch, capsys):
    for number in range(DOCUMENTS):
        path, target = broken_documents[number % len(broken_documents)]
        good = path.read_bytes()
        name, change = broken(number, TEXTS)
        path.write_bytes(change(good))
        judge(f"{name} {path.name}", target, scratch, capsys)
        path.write_bytes(good)


def test_every_key_with_another_type(broken_documents, scratch, capsys):
    """Every key of every document gets a value of another type, many keys at a time."""
    for number in range(KEYS):
        path, target = broken_documents[number % len(broken_documents)]
        good = path.read_bytes()
        path.write_bytes(wrong_values(good, fixed(number), 0.3))
        judge(f"{number} {path.name}", target, scratch, capsys)
        document = json.loads(good)
        chance = fixed(number)
        if isinstance(document, dict):
            path.write_text(json.dumps({key: chance.choice(WRONG) for key in document}))
            judge(f"all keys {number} {path.name}", target, scratch, capsys)
        path.write_bytes(good)


def test_there_are_two_hundred():
    assert COUNT >= 200


def test_the_watch_sees_what_must_not_be(tmp_path):
    """A test that cannot fail proves nothing: a write elsewhere, a program and a delay are each noticed."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with watched("good", inside):
        (inside / "x").write_text("")
    with pytest.raises(AssertionError), watched("elsewhere", inside):
        (tmp_path / "x").write_text("")
    with pytest.raises(AssertionError), watched("program", inside):
        os.system("exit")  # noqa: S605 - this is what the watch is for
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with pytest.raises(AssertionError, match="takes more"), watched("delay", inside):
        os.kill(os.getpid(), signal.SIGALRM)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
