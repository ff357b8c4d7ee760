"""Archives of strangers: unpacked whole, or refused with nothing written."""

import io
import stat
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import unpack
from registry.errors import ConflictError, IntegrityError, NotFoundError
from registry.unpack import is_archive, model_folder, unpack_safely

TRAINER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def write_zip(path, *members, compression=zipfile.ZIP_STORED):
    """Write members (name or ZipInfo, bytes), in order, duplicates too."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def info(name, mode=0):
    entry = zipfile.ZipInfo(name)
    entry.filename = entry.orig_filename = name
    entry.external_attr = mode << 16
    return entry


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def model_zip(tmp_path):
    members = [(f"{TRAINER}/dataset.json", b"{}"), (f"{TRAINER}/fold_0/checkpoint_final.pth", bytes(1000))]
    return write_zip(tmp_path / "model.zip", *members)


def test_an_archive_becomes_a_folder_with_its_files(model_zip, tmp_path):
    folder = unpack_safely(model_zip, tmp_path / "out" / "model")
    assert tree(folder) == {
        f"{TRAINER}/dataset.json": b"{}",
        f"{TRAINER}/fold_0/checkpoint_final.pth": bytes(1000),
    }
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o700 == 0o700


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.from_regex(r"[abx]{1,4}(/[abx]{1,4}){0,2}\.x", fullmatch=True), st.binary(max_size=50)))
def test_packing_and_unpacking_give_the_same_files(files):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as root:
        archive = write_zip(Path(root, "a.zip"), *files.items(), compression=zipfile.ZIP_DEFLATED)
        assert tree(unpack_safely(archive, Path(root, "a"))) == files


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../evil.txt", "leave the folder"),
        ("a/../../evil.txt", "leave the folder"),
        ("/etc/evil.txt", "leave the folder"),
        ("a//b.txt", "leave the folder"),
        ("./a.txt", "leave the folder"),
        ("..", "leave the folder"),
        ("C:/evil.txt", "not every system"),
        ("..\\evil.txt", "not every system"),
        ("a\nb.txt", "not every system"),
        ("a?.txt", "not every system"),
        ("fold_0/con", "not every system"),
        ("Aux.json", "not every system"),
        ("com¹.txt", "not every system"),
        ("plans.json.", "not every system"),
        ("a /b.txt", "not every system"),
    ],
)
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, name, word):
    archive = write_zip(tmp_path / "a.zip", ("good.txt", b"1"), (info(name), b"2"))
    with pytest.raises(IntegrityError, match=word):
        unpack_safely(archive, tmp_path / "deep" / "out")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = write_zip(tmp_path / "a.zip", (info("link", kind | 0o777), b"/etc/passwd"))
    with pytest.raises(IntegrityError, match="link or a device"):
        unpack_safely(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names", [("a.txt", "a.txt"), ("A.txt", "a.txt"), ("e\u0301.txt", "\u00e9.txt"), ("a", "a/b.txt"), ("a/b.txt", "A")]
)
def test_members_that_overwrite_each_other_are_refused(tmp_path, names):
    archive = write_zip(tmp_path / "a.zip", *((name, b"x") for name in names))
    with pytest.raises(IntegrityError, match=r"two members|a file and a folder"):
        unpack_safely(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["console.txt", "com.txt", "com10.txt", ".hidden", "a.b.c", "nul_1.txt", "a b.txt"])
def test_names_that_only_begin_like_reserved_ones_are_unpacked(tmp_path, name):
    archive = write_zip(tmp_path / "a.zip", (name, b"1"))
    assert tree(unpack_safely(archive, tmp_path / "out")) == {name: b"1"}


def test_a_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "HARMLESS_BYTES", 100_000)
    archive = write_zip(tmp_path / "a.zip", ("zeros", bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="that would become 1000000"):
        unpack_safely(archive, tmp_path / "out")


def test_text_that_shrinks_well_is_no_bomb(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("zeros", bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED)
    assert (unpack_safely(archive, tmp_path / "out") / "zeros").stat().st_size == 1_000_000


def test_a_bomb_that_lies_about_its_size_is_cut_off(tmp_path):
    data = zlib.compress(bytes(1_000_000))[2:-4]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1_000_000))
    raw = buffer.getvalue().replace(struct.pack("<II", len(data), 1_000_000), struct.pack("<II", len(data), 10))
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(IntegrityError, match="zeros"):
        unpack_safely(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 3)
    archive = write_zip(tmp_path / "a.zip", *((str(n), b"") for n in range(4)))
    with pytest.raises(IntegrityError, match="4 members"):
        unpack_safely(archive, tmp_path / "out")


def test_an_encrypted_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("a.txt", b"x"))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="encrypted"):
        unpack_safely(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"<html>404</html>" * 100])
def test_what_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    assert not is_archive(tmp_path / "a.zip")
    with pytest.raises(IntegrityError, match=r"a\.zip: not a zip"):
        unpack_safely(tmp_path / "a.zip", tmp_path / "out")


def test_every_truncation_is_refused_with_nothing_written(model_zip, tmp_path):
    whole = model_zip.read_bytes()
    cut = tmp_path / "cut.zip"
    for length in range(0, len(whole), 97):
        cut.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match=r"cut\.zip"):
            unpack_safely(cut, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.zip", "model.zip"]


def test_a_flipped_bit_is_noticed(model_zip, tmp_path):
    raw = bytearray(model_zip.read_bytes())
    raw[raw.index(b"checkpoint_final.pth") + 500] ^= 1
    model_zip.write_bytes(raw)
    with pytest.raises(IntegrityError, match="CRC"):
        unpack_safely(model_zip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_time_keeps_the_folder_and_another_folder_is_not_touched(model_zip, tmp_path):
    folder = unpack_safely(model_zip, tmp_path / "out")
    inode = folder.stat().st_ino
    assert unpack_safely(model_zip, folder).stat().st_ino == inode
    (folder / TRAINER / "dataset.json").write_text("[]")
    with pytest.raises(ConflictError, match="another folder"):
        unpack_safely(model_zip, folder)
    assert (folder / TRAINER / "dataset.json").read_text() == "[]"


def test_a_full_disk_leaves_nothing(model_zip, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "checkpoint_final.pth")

    monkeypatch.setattr(unpack.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        unpack_safely(model_zip, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([f"{TRAINER}/plans.json"], TRAINER),
        (["wrapper/" + TRAINER + "/plans.json"], f"wrapper/{TRAINER}"),
        (["Dataset501_Cord/" + TRAINER + "/plans.json", "__MACOSX/x"], f"Dataset501_Cord/{TRAINER}"),
        ([f"{TRAINER}/plans.json", "README.md"], TRAINER),
        ([f"wrapper/{TRAINER}/plans.json", "wrapper/crop_metadata.json"], f"wrapper/{TRAINER}"),
        ([f"wrapper/{TRAINER}/plans.json", "README.md"], None),
        ([f"a/b/{TRAINER}/plans.json"], None),
        ([f"{TRAINER}/plans.json", "nnUNetTrainerX__p__2d/plans.json"], None),
        ([f"{TRAINER}/plans.json", "nnUNetTrainer.md"], None),
        (["dataset.json", "fold_0/checkpoint_final.pth"], None),
        ([f"old_nnUNetTrainer/{TRAINER}/plans.json"], None),
        (["nnUNetTrainer.md"], None),
    ],
)
def test_the_trainer_folder_is_found_where_sct_finds_it(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if found:
        assert model_folder(tmp_path) == tmp_path / found
    else:
        with pytest.raises(NotFoundError, match="nnUNetTrainer"):
            model_folder(tmp_path)


def test_the_trainer_folder_itself_is_a_model_folder(model_zip, tmp_path):
    folder = unpack_safely(model_zip, tmp_path / "out") / TRAINER
    assert model_folder(folder) == folder
