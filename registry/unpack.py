"""Archives of strangers become folders, or one error: no member leaves the folder, links, hides or explodes."""

from __future__ import annotations

import glob
import os
import re
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from registry import classifier, encoder, lesion_model
from registry.errors import ConflictError, IntegrityError, NotFoundError
from registry.files import naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    _Place = tuple[Path, zipfile.ZipFile, zipfile.ZipInfo]

CHUNK_BYTES = 1 << 20
MAX_MEMBERS = 10_000
# Weights hardly shrink. What grows to more than this, and to more than this many times its size, is an attack.
MAX_RATIO = 50
HARMLESS_BYTES = 256 << 20
TRAINER = "nnUNetTrainer"
TRAINERS = (
    TRAINER,
    classifier.TRAINER,
    lesion_model.TRAINER,
    *encoder.TRAINERS,
)  # what folders of models begin with; SCT knows the first one only
MODEL_FILES = ("dataset.json", encoder.PLAN)  # one of which every such folder has
_ENCRYPTED = 0x1
# Windows refuses these characters, takes some names for devices, and drops blanks and dots at a name's end.
_ELSEWHERE = re.compile(r'[\x00-\x1f\\:*?"<>|]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\..*)?|.*[^.][. ]+| +", re.IGNORECASE)
# Whatever zipfile lets through when a directory or a member is damaged; an OSError may be the disk's, too.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, LookupError, OverflowError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether a file is a zip with a readable directory."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (FileNotFoundError, PermissionError):
        raise
    except (*_DAMAGE, OSError):
        return False


def require_archive(path: Path) -> Path:
    """Return the path of a zip, or raise `IntegrityError`."""
    if not is_archive(path):
        raise IntegrityError(f"{path}: not a zip archive, or cut off", hint="fetch or build it again")
    return path


def unpack_safely(archive: Path, folder: Path) -> Path:
    """Unpack a zip into a new folder, whole or not at all, and return the folder.

    A folder that holds exactly the archive's files is left as it is. Raises `ConflictError` for any other folder and
    `IntegrityError` for an archive that is broken or has unsafe members; nothing is written then.
    """
    return unpack_together([archive], folder)


def unpack_together(archives: Sequence[Path], folder: Path) -> Path:
    """Unpack several zips into one new folder, as the folds of a model that was packed a fold an archive.

    Files that several of them have must be the same in all. Else as `unpack_safely`.
    """
    with ExitStack() as stack:
        members = _merged([(archive, stack.enter_context(_open(archive))) for archive in archives])
        entries = [(name, info) for name, (_, _, info) in members.items()]
        if folder.exists():
            if _holds(folder, entries):
                return folder
            raise ConflictError(
                f"{folder}: there is another folder or file of that name",
                hint="remove it, or choose another place: -o DIR",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
        try:
            for name, (archive, source, info) in members.items():
                _extract(source, info, temporary / name, archive)
            temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
            _move(temporary, folder, entries)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def sweep(folder: Path) -> None:
    """Remove what killed processes have left of a folder, which the caller holds against others."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _merged(sources: Iterable[tuple[Path, zipfile.ZipFile]]) -> dict[str, _Place]:
    """Return where each file is read from."""
    members: dict[str, _Place] = {}
    for archive, source in sources:
        for name, info in safe_members(source, archive):
            first, _, there = members.setdefault(name, (archive, source, info))
            if (there.CRC, there.file_size) != (info.CRC, info.file_size):
                raise IntegrityError(
                    f"{archive}: its {name} is not that of {first.name}: not unpacked",
                    hint="archives of one model's folds have the same plans.json and dataset.json",
                )
    keys = {_key(name) for name in members}
    if len(keys) < len(members):
        raise _unsafe(next(iter(members.values()))[0], "the archives have names that differ in case only")
    return members


def model_folder(folder: Path) -> Path:
    """Return the folder nnUNetTrainer…__PLANS__CONFIGURATION of an unpacked archive, found as SCT finds it.

    A single top folder is passed through (macOS's `__MACOSX` does not count), then exactly one name at the top may
    start with nnUNetTrainer. The trainer folder itself may be given as well. Raises `NotFoundError`.
    """
    if folder.name.startswith(TRAINERS) and any((folder / name).is_file() for name in MODEL_FILES):
        return folder
    top = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    if len(top) == 1 and top[0].is_dir() and not any(trainer in top[0].name for trainer in TRAINERS):
        folder = top[0]
    found = sorted(path for path in folder.iterdir() if path.name.startswith(TRAINERS))
    if len(found) == 1 and found[0].is_dir():
        return found[0]
    what = f"{len(found)} names that start with" if found else "no folder"
    raise NotFoundError(f"{folder}: {what} {TRAINER}…", hint="mreg check ARCHIVE says what SCT wants")


def _open(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise NotFoundError(f"{archive}: no such file") from None
    except PermissionError:
        raise
    except (*_DAMAGE, OSError) as error:  # a directory that is said to begin before the file
        raise IntegrityError(f"{archive}: not a zip archive, or cut off: {error}", hint="fetch it again") from error


def safe_members(source: zipfile.ZipFile, archive: Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield each file's path and entry; raise `IntegrityError` for the first thing that no archive of ours has."""
    infos = source.infolist()
    if len(infos) > MAX_MEMBERS:
        raise _unsafe(archive, f"{len(infos)} members, {MAX_MEMBERS} are allowed")
    total, packed = sum(info.file_size for info in infos), archive.stat().st_size
    if total > max(HARMLESS_BYTES, MAX_RATIO * packed):
        raise _unsafe(archive, f"{packed} bytes that would become {total}")
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for info in infos:
        name = safe_name(info, archive)
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault(_key("/".join(parts[:depth])), name)
        if info.is_dir():
            folders.setdefault(_key(name), name)
            continue
        if _key(name) in files:  # on macOS and Windows one would overwrite the other
            raise _unsafe(archive, f"two members {files[_key(name)]!r} and {name!r}")
        files[_key(name)] = name
        yield name, info
    both = files.keys() & folders.keys()
    if both:
        raise _unsafe(archive, f"{files[min(both)]!r} is a file and a folder")


def safe_name(info: zipfile.ZipInfo, archive: Path) -> str:
    """Return a member's path with forward slashes; raise for a path that leaves the folder and for what is no file."""
    raw = info.orig_filename
    name = raw.removesuffix("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if _ELSEWHERE.search(raw) or any(_RESERVED.fullmatch(part) for part in name.split("/")):
        raise _unsafe(archive, f"member {raw!r} has a name that not every system can write")
    if raw.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise _unsafe(archive, f"member {raw!r} would leave the folder")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe(archive, f"member {raw!r} is a link or a device")
    if info.flag_bits & _ENCRYPTED:
        raise _unsafe(archive, f"member {raw!r} is encrypted")
    return name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _unsafe(archive: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{archive}: {what}: not unpacked", hint="tell the people who published it")


def _extract(source: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, archive: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(target), _member(source, info) as reader, target.open("xb") as writer:
            _copy(reader, writer, info.file_size)
            writer.flush()
            os.fsync(writer.fileno())
    except _DAMAGE as error:
        raise IntegrityError(f"{archive}: member {info.filename!r}: {error}", hint="fetch it again") from error


def _member(source: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member; one that is said to begin before the file is damaged, and no trouble of the disk."""
    try:
        return source.open(info)
    except OSError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _copy(reader: IO[bytes], writer: IO[bytes], declared: int) -> None:
    """Copy a member, and not one byte more than its entry says, whatever the decompressor yields."""
    done = 0
    while chunk := reader.read(CHUNK_BYTES):
        done += len(chunk)
        if done > declared:
            break
        writer.write(chunk)
    if done != declared:
        raise zipfile.BadZipFile(f"not the {declared} bytes that its entry says")


def _holds(folder: Path, members: list[tuple[str, zipfile.ZipInfo]]) -> bool:
    """Whether a folder has exactly these files, by name, size and CRC."""
    if not folder.is_dir():
        return False
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if there != {name for name, _ in members}:
        return False
    return all(_same(folder / name, info) for name, info in members)


def _same(path: Path, info: zipfile.ZipInfo) -> bool:
    if path.is_symlink() or path.stat().st_size != info.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _move(temporary: Path, folder: Path, members: list[tuple[str, zipfile.ZipInfo]]) -> None:
    """Rename; where another process was faster with the same files, theirs stay."""
    try:
        temporary.rename(folder)
    except OSError:
        if not _holds(folder, members):
            raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
