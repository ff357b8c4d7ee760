"""An archive's bytes are read once, whatever the rules want of them, and nothing in them is missed."""

import hashlib
import io
import json
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from fixtures_run import TRAINER_FOLDER

from registry import inflate
from registry.checks import archive, check
from registry.survey import survey

CHECKPOINT = f"{TRAINER_FOLDER}/fold_0/checkpoint_final.pth"
BLOCK = 1 << 12


def checkpoint(value: float = 1.0) -> bytes:
    """Return a checkpoint of 4 MB."""
    import torch

    file = io.BytesIO()
    weights = {"conv.weight": torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))}
    weights["conv.weight"][1000] = value
    parts = {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": "3d_fullres"}}
    torch.save({"network_weights": weights, **parts}, file)
    return file.getvalue()


@pytest.fixture
def pack(tiny_package, tmp_path):
    """Build an archive with a checkpoint of some size, beside a manifest of an archive with another checkpoint."""
    with zipfile.ZipFile(tiny_package.archive) as source:
        members = {name: source.read(name) for name in source.namelist()}

    def write(data: bytes, said: bytes = b"", method: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / tiny_package.archive.name
        digest = ""
        for content in (said or data, data):
            with zipfile.ZipFile(path, "w", method) as target:
                for name in sorted(members):
                    target.writestr(zipfile.ZipInfo(name), {**members, CHECKPOINT: content}[name], method)
            digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
        document = json.loads(tiny_package.manifest.read_text())
        document["assets"][0].update(sha256=digest, size=path.stat().st_size)
        for member in document["models"][0]["members"]:
            if member["path"] == CHECKPOINT:
                member.update(sha256=hashlib.sha256(said or data).hexdigest(), size=len(data))
        document["models"][0]["weights"]["parameters"] = 1 << 20
        (tmp_path / tiny_package.manifest.name).write_text(json.dumps(document))
        return path

    return write


class Counting(io.FileIO):
    """Counts how often each block of a file is read."""

    blocks: ClassVar[Counter[int]] = Counter()
    total = 0

    def _count(self, start: int, length: int) -> None:
        type(self).total += length
        self.blocks.update(range(start // BLOCK, -(-(start + length) // BLOCK)) if length else ())

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(-1 if size is None else size)
        self._count(start, len(data))
        return data

    def readinto(self, buffer) -> int:
        start, length = self.tell(), super().readinto(buffer)
        self._count(start, length)
        return length


class CountingPath(type(Path())):  # type: ignore[misc]
    """Opens files that count."""

    def open(self, mode="r", buffering=-1, *rest):
        return Counting(str(self)) if mode == "rb" and buffering == 0 else super().open(mode, buffering, *rest)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_the_big_member_is_read_once(pack, method):
    path = pack(checkpoint(), method=method)
    Counting.blocks, Counting.total = Counter(), 0
    codes = {finding.code for finding in archive.findings(CountingPath(path))}
    assert codes == {"CKPT008"}  # the network is another one, and all bytes are those of the manifest
    size = path.stat().st_size
    assert size <= Counting.total <= size + (512 << 10)
    often = [block for block, times in Counting.blocks.items() if times > 3]
    assert len(often) * BLOCK < 512 << 10  # the directories, the pickle and the small members
    assert min(Counting.blocks[block] for block in range(size // BLOCK)) == 1


def test_a_flipped_bit_in_a_tensor_is_located(pack):
    path = pack(checkpoint())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = {(finding.code, finding.path) for finding in check(path).findings}
    assert {
        ("ARCHIVE009", CHECKPOINT),
        ("CKPT004", CHECKPOINT),
        ("MANIFEST001", CHECKPOINT),
        ("MANIFEST001", ""),
    } <= found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_another_weight_with_all_its_checksums_is_found_through_the_manifest(pack, method):
    report = check(pack(checkpoint(2.0), said=checkpoint(), method=method))
    found = [(finding.code, finding.path) for finding in report.findings if finding.code != "CKPT008"]
    assert found == [("MANIFEST001", ""), ("MANIFEST001", CHECKPOINT)]


@pytest.mark.parametrize("engine", ["zlib", "isal"])
def test_a_number_that_is_none_is_found_in_a_compressed_checkpoint(pack, engine, monkeypatch):
    if engine == "zlib":
        monkeypatch.setattr(inflate, "engine", zlib)
    path = pack(checkpoint(float("inf")), method=zipfile.ZIP_DEFLATED)
    report = check(path)
    assert [finding.path for finding in report.findings if finding.code == "CKPT004"] == [CHECKPOINT]


@pytest.mark.parametrize("engine", ["zlib", "isal"])
def test_a_compressed_member_that_is_damaged_is_told(pack, engine, monkeypatch):
    if engine == "zlib":
        monkeypatch.setattr(inflate, "engine", zlib)
    path = pack(checkpoint(), method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert ("ARCHIVE009", CHECKPOINT) in {(finding.code, finding.path) for finding in check(path).findings}


def test_members_that_share_bytes_are_read_once(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a", b"x" * 1000)
    with zipfile.ZipFile(path) as source:
        infos = source.infolist() * 1000
    with path.open("rb", buffering=0) as file:
        found = survey(file, infos, {}, digests=True, copies={})
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "overlaps" in found.members["a"].damage or not found.members["a"].damage
