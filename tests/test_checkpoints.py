"""Checkpoints are read without torch and without running them; the slimmed ones are loaded with torch."""

import contextlib
import io
import os
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import checkpoints, pickles
from registry.errors import IntegrityError, MregError
from registry.stored_zip import StoredZip

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner, inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@pytest.fixture
def trained(tiny_run: Path) -> Path:
    """Return the checkpoint that nnU-Net wrote."""
    return tiny_run / "fold_0" / "checkpoint_final.pth"


def save(path: Path, **parts: object) -> Path:
    document = {
        "network_weights": {"a": torch.ones(3)},
        "init_args": {"configuration": "2d"},
        "trainer_name": "nnUNetTrainer",
    }
    torch.save(document | parts, path)
    return path


def load(path: Path, **how: object) -> dict:
    return torch.load(path, weights_only=True, **how)


def weights_before(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["network_weights"]


def bad_weights(path: Path) -> list[str]:
    return checkpoints.bad_weights(checkpoints.read_metadata(path), checkpoints.read_weights(path))


def storages(weights: dict[str, torch.Tensor]) -> list[int]:
    """Return the storage of each tensor, numbered by first use."""
    pointers = [tensor.untyped_storage().data_ptr() for tensor in weights.values()]
    order = list(dict.fromkeys(pointers))
    return [order.index(pointer) for pointer in pointers]


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.path}'",)


# ---- what a checkpoint says about itself


def weight_bytes(found: checkpoints.Checkpoint) -> int:
    return sum(storage.size for storage in found.storages)


def test_metadata_counts_tensors_with_several_names_once(trained: Path) -> None:
    found = checkpoints.read_metadata(trained)
    weights = weights_before(trained)
    network = {tensor.data_ptr(): tensor.numel() for tensor in weights.values()}
    assert found.trainer_name == "nnUNetTrainer"
    assert found.configuration == "3d_fullres"
    assert found.mirroring_axes == (0, 1, 2)
    assert found.parameters == sum(network.values())
    assert len(found.tensors) == len(weights) > len(network)
    assert {t.name: (t.shape, t.dtype) for t in found.tensors} == {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in weights.items()
    }
    assert weight_bytes(found) == 4 * found.parameters
    assert found.size == trained.stat().st_size
    assert "optimizer_state" in found.keys
    assert not found.inert


def test_scan_names_at_least_what_torch_would_refuse(trained: Path) -> None:
    found = checkpoints.scan(trained)
    assert set(torch.serialization.get_unsafe_globals_in_checkpoint(trained)) <= set(found)
    assert any(name.endswith("multiarray.scalar") for name in found)


@pytest.mark.parametrize(
    "value",
    [1.5, {"x": [None, True, "text", 1 << 70]}, torch.ones(2), OrderedDict(a=1), torch.nn.Parameter(torch.ones(2)),
     torch.Size([2]), torch.ones(3)[::2]],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_values_and_tensors_are_inert(tmp_path: Path, value: object) -> None:
    path = save(tmp_path / "c.pth", extra=value)
    assert checkpoints.read_metadata(path).inert
    load(path)


@pytest.mark.parametrize(
    ("value", "name"),
    [(np.float64(2), ".multiarray.scalar"), (np.arange(3), ".multiarray._reconstruct"),
     (Fraction(1, 3), "fractions.Fraction"), ({1, 2}, "__builtin__.set"), (torch.device("cpu"), "torch.device"),
     (print, "__builtin__.print")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_some_torch_since_2_2_refuses_is_not_inert(tmp_path: Path, value: object, name: str) -> None:
    unsafe = checkpoints.read_metadata(save(tmp_path / "c.pth", extra=value)).unsafe
    assert any(found.endswith(name) for found in unsafe)


def test_bad_weights_names_nan_and_says_when_all_are_zero(tmp_path: Path) -> None:
    weights = {"good": torch.ones(4), "bad": torch.tensor([1.0, float("nan")])}
    path = save(tmp_path / "c.pth", network_weights={**weights, "again": weights["bad"]})
    assert bad_weights(path) == ["bad", "again"]
    assert bad_weights(save(path, network_weights={"a": torch.ones(2)})) == []
    assert bad_weights(save(path, network_weights={"a": torch.zeros(2)})) == ["every weight is zero"]


def test_reading_needs_no_torch(trained: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from registry import checkpoints;"
        f"checkpoints.slim(Path({str(trained)!r}), Path('slim.pth'), half=True); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=trained.parents[3])


# ---- slimming


@pytest.mark.parametrize("mmap", [False, True])
def test_slim_keeps_values_names_sharing_and_versions(trained: Path, tmp_path: Path, mmap: bool) -> None:
    described = checkpoints.slim(trained, tmp_path / "slim.pth")
    slim, before = load(tmp_path / "slim.pth", mmap=mmap), weights_before(trained)
    assert list(slim) == ["network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes"]
    assert slim["init_args"] == {"configuration": "3d_fullres"}
    assert slim["trainer_name"] == "nnUNetTrainer"
    assert slim["inference_allowed_mirroring_axes"] == (0, 1, 2)
    after = slim["network_weights"]
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert storages(after) == storages(before)
    assert after._metadata == before._metadata
    assert described.inert
    assert checkpoints.scan(tmp_path / "slim.pth") == []


def test_slim_loads_strictly_into_the_network(trained: Path, tiny_run: Path, tmp_path: Path) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(tiny_run / "plans.json"))
    configuration = plans.get_configuration("3d_fullres")
    network = nnUNetTrainer.build_network_architecture(plans, configuration, 1, 2, False)
    checkpoints.slim(trained, tmp_path / "slim.pth", half=True)
    network.load_state_dict(load(tmp_path / "slim.pth")["network_weights"])
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


def test_half_converts_each_storage_once(trained: Path, tmp_path: Path) -> None:
    full = checkpoints.slim(trained, tmp_path / "full.pth")
    half = checkpoints.slim(trained, tmp_path / "half.pth", half=True)
    after, before = load(tmp_path / "half.pth", mmap=True)["network_weights"], weights_before(trained)
    assert storages(after) == storages(before)
    assert all(torch.equal(after[name], before[name].half()) for name in before)
    assert weight_bytes(half) * 2 == weight_bytes(full)
    assert half.dtype == "float16"


def test_half_leaves_whole_numbers_and_doubles_to_their_kind(tmp_path: Path) -> None:
    weights = {"f8": torch.arange(3, dtype=torch.float64) / 3, "i8": torch.arange(3), "f2": torch.ones(3).half()}
    checkpoints.slim(save(tmp_path / "c.pth", network_weights=weights), tmp_path / "half.pth", half=True)
    after = load(tmp_path / "half.pth")["network_weights"]
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        "f8": torch.float16, "i8": torch.int64, "f2": torch.float16,
    }  # fmt: skip
    assert all(torch.equal(after[name], weights[name].to(after[name].dtype)) for name in weights)


def test_half_refuses_a_weight_that_does_not_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", network_weights={"a": torch.tensor([1.0, 1e6])})
    with pytest.raises(MregError, match=r"c\.pth: a weight of 1e\+06 does not fit"):
        checkpoints.slim(path, tmp_path / "half.pth", half=True)
    assert not (tmp_path / "half.pth").exists()


def test_views_and_strides_survive_and_unused_storages_do_not(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    weights = {"t": whole.t(), "row": whole[1], "column": whole[:, 2], "point": whole[3, 3], "none": whole[:0]}
    path = save(tmp_path / "c.pth", network_weights=weights, optimizer_state={"big": torch.zeros(100_000)})
    checkpoints.slim(path, tmp_path / "slim.pth")
    after = load(tmp_path / "slim.pth")["network_weights"]
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert storages(after)[:4] == [0] * 4
    assert (tmp_path / "slim.pth").stat().st_size < 4_000


def test_parameters_and_numpy_axes_become_plain(tmp_path: Path) -> None:
    weights = {"p": torch.nn.Parameter(torch.ones(2))}
    path = save(
        tmp_path / "c.pth", network_weights=weights, inference_allowed_mirroring_axes=[np.int64(1), np.int32(2)]
    )
    assert checkpoints.slim(path, tmp_path / "slim.pth").mirroring_axes == (1, 2)
    after = load(tmp_path / "slim.pth")
    assert after["inference_allowed_mirroring_axes"] == (1, 2)
    assert type(after["network_weights"]["p"]) is torch.Tensor


def test_keep_optimizer_keeps_what_nnunet_continues_from(trained: Path, tmp_path: Path) -> None:
    described = checkpoints.slim(trained, tmp_path / "slim.pth", keep_optimizer=True, half=True)
    after, before = load(tmp_path / "slim.pth"), torch.load(trained, weights_only=False)
    assert set(before) == set(after)
    assert described.inert
    for number, state in before["optimizer_state"]["state"].items():
        kept = after["optimizer_state"]["state"][number]["momentum_buffer"]
        assert torch.equal(kept, state["momentum_buffer"])  # float32: momentum is smaller than weights
    assert after["optimizer_state"]["param_groups"] == before["optimizer_state"]["param_groups"]
    assert after["logging"] == before["logging"]
    assert type(after["_best_ema"]) is float


def test_slim_bytes_depend_on_the_values_only(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = torch.load(trained, weights_only=False)
    torch.save(document, tmp_path / "another name.pth")
    made = []
    for source, umask, zone in ((trained, 0o022, "UTC"), (tmp_path / "another name.pth", 0o077, "Asia/Tokyo")):
        monkeypatch.setenv("TZ", zone)
        before = os.umask(umask)
        checkpoints.slim(source, tmp_path / f"{umask}.pth")
        os.umask(before)
        made.append((tmp_path / f"{umask}.pth").read_bytes())
    checkpoints.slim(tmp_path / f"{0o022}.pth", tmp_path / "twice.pth")
    assert made[0] == made[1] == (tmp_path / "twice.pth").read_bytes()


def test_slim_can_replace_its_source(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(trained.read_bytes())
    checkpoints.slim(path, path)
    assert load(path)["trainer_name"] == "nnUNetTrainer"


def test_slim_streams(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", network_weights={"a": torch.ones(16_000_000)})
    tracemalloc.start()
    checkpoints.slim(path, tmp_path / "slim.pth", half=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6
    assert path.stat().st_size > 64e6


def test_storages_lie_on_64_bytes(trained: Path, tmp_path: Path) -> None:
    checkpoints.slim(trained, tmp_path / "slim.pth")
    data = (tmp_path / "slim.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "slim.pth") as archive:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            start = info.header_offset
            length = int.from_bytes(data[start + 26 : start + 28], "little")
            extra = int.from_bytes(data[start + 28 : start + 30], "little")
            assert (start + 30 + length + extra) % 64 == 0
        assert archive.testzip() is None


def test_wide_sizes_keep_the_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    with (tmp_path / "wide.zip").open("wb") as file, StoredZip(file, alignment=64) as archive:
        archive.write("a", b"x" * 2000)
        archive.write("b", b"y" * 10)
    data = (tmp_path / "wide.zip").read_bytes()
    assert data.index(b"x" * 2000) % 64 == data.index(b"y" * 10) % 64 == 0
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "wide.zip") as archive:
        assert archive.read("a") == b"x" * 2000
        assert archive.read("b") == b"y" * 10


# ---- malice


def malicious(marker: Path) -> dict[str, bytes]:
    """Return pickles that create `marker` when they are loaded, each in another way."""
    command = f"touch '{marker}'"
    text, code = command.encode(), f"__import__('os').system({command!r})".encode()
    return {
        "reduce": pickle.dumps(Touch(marker), 2),
        "stack global": pickle.dumps(Touch(marker), 4),
        "inst": b"(S" + repr(command).encode() + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS" + repr(command).encode() + b"\no.",
        "hidden in a dict": pickle.dumps({"network_weights": {"a": Touch(marker)}}, 2),
        "before the end only": b"\x80\x02cos\nsystem\nX" + len(text).to_bytes(4, "little") + text + b"\x85R0}.",
        "through the memo": b"\x80\x02cos\nsystem\nq\x05h\x05X" + len(text).to_bytes(4, "little") + text + b"\x85R.",
        "builtins": b"\x80\x02cbuiltins\neval\nX" + len(code).to_bytes(4, "little") + code + b"\x85R.",
    }  # fmt: skip


def torch_zip(path: Path, data: bytes, **more: bytes) -> Path:
    with path.open("wb") as file, StoredZip(file) as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", **more}.items():
            archive.write(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("kind", list(malicious(Path("x"))))
def test_nothing_in_a_malicious_checkpoint_is_executed(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "executed"
    data = malicious(marker)[kind]
    pickle.loads(data)  # the attack works …
    assert marker.exists()
    marker.unlink()
    path = torch_zip(tmp_path / "evil.pth", data)
    assert {"posix.system", "os.system", "builtins.eval"} & set(checkpoints.scan(path))  # … and is seen
    with pytest.raises(IntegrityError, match=r"evil\.pth"):
        checkpoints.slim(path, tmp_path / "slim.pth", keep_optimizer=True)
    assert not marker.exists()
    assert not (tmp_path / "slim.pth").exists()


def test_a_payload_beside_the_weights_does_not_reach_the_slim_file(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path / "evil.pth", logging=Touch(marker))
    assert "posix.system" in checkpoints.scan(path)
    checkpoints.slim(path, tmp_path / "slim.pth")
    assert checkpoints.scan(tmp_path / "slim.pth") == []
    with pytest.raises(IntegrityError, match=r"posix\.system"):
        checkpoints.slim(path, tmp_path / "kept.pth", keep_optimizer=True)
    assert not marker.exists()


def test_extension_codes_are_named() -> None:
    assert [str(name) for name in pickles.parse(b"\x80\x02\x82\x07.")[1]] == ["copyreg.extension 7"]


@pytest.mark.parametrize(
    "case", ["double", "other case", "other folder", "script", "pickle in front", "big-endian", "compressed"]
)
def test_files_that_another_reader_may_see_otherwise_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "odd.pth"
    good = pickle.dumps({}, 2)
    more = {"other case": {"DATA.PKL": good}, "script": {"constants.pkl": good}, "big-endian": {"byteorder": b"big"}}
    torch_zip(path, good, **more.get(case, {}))
    with zipfile.ZipFile(path, "a") as archive:
        if case == "double":
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("archive/data.pkl", good)
        elif case == "other folder":
            archive.writestr("other/data.pkl", good)
        elif case == "compressed":
            archive.writestr("archive/data/0", bytes(1000), zipfile.ZIP_DEFLATED)
    if case == "pickle in front":
        path.write_bytes(pickle.dumps(Touch(tmp_path / "executed"), 2) + path.read_bytes())
    with pytest.raises(IntegrityError, match=r"odd\.pth: "):
        checkpoints.scan(path)


def test_legacy_format_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(IntegrityError, match=r"old\.pth: a bare pickle") as error:
        checkpoints.scan(tmp_path / "old.pth")
    assert "save it again" in error.value.hint


def test_lists_that_hold_one_another_end_in_an_error(tmp_path: Path) -> None:
    bomb: list = ["x"]
    for _ in range(45):
        bomb = [bomb, bomb]
    endless: list = []
    endless.append(endless)
    for value in (bomb, endless):
        path = save(tmp_path / "bomb.pth", logging=value)
        with pytest.raises(IntegrityError, match=r"bomb\.pth: .* without end"):
            checkpoints.slim(path, tmp_path / "slim.pth", keep_optimizer=True)


@pytest.mark.parametrize(
    "parts",
    [
        {"network_weights": {"a": 1}},
        {"network_weights": [torch.ones(2)]},
        {"network_weights": {1: torch.ones(2)}},
        {"network_weights": {"a": torch.ones(2).to_sparse()}},
        {"init_args": {}},
        {"init_args": None},
        {"trainer_name": ["nnUNetTrainer"]},
        {"inference_allowed_mirroring_axes": "012"},
        {"inference_allowed_mirroring_axes": [[0]]},
    ],
    ids=str,
)
def test_another_content_than_nnunets_is_one_error(tmp_path: Path, parts: dict) -> None:
    path = save(tmp_path / "c.pth", **parts)
    with pytest.raises(IntegrityError, match=r"c\.pth: "):
        checkpoints.slim(path, tmp_path / "slim.pth")
    assert not (tmp_path / "slim.pth").exists()


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth")
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    data = members["c/data.pkl"]
    shape = next(pos for code, arg, pos in pickletools.genops(data) if code.name == "TUPLE1")
    assert data[shape - 2 : shape] == b"K\x03"
    members["c/data.pkl"] = data[: shape - 1] + b"\x04" + data[shape:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(IntegrityError, match="reaches element 3 of a storage of 3"):
        checkpoints.read_metadata(path)


# ---- damage


@given(data=st.data())
@FEW
def test_a_truncated_checkpoint_is_one_error_and_leaves_nothing(
    trained: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = trained.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(IntegrityError, match=r"cut\.pth: "):
        checkpoints.scan(path)
    with pytest.raises(IntegrityError, match=r"cut\.pth: "):
        checkpoints.slim(path, tmp_path / "slim.pth")
    assert [p.name for p in tmp_path.glob("*.pth*")] == ["cut.pth"]


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@FEW
def test_a_flipped_bit_is_noticed_or_changes_nothing(trained: Path, tmp_path: Path, place: float, bit: int) -> None:
    damaged = bytearray(trained.read_bytes())
    damaged[int(place * len(damaged))] ^= 1 << bit
    (tmp_path / "c.pth").write_bytes(damaged)
    checkpoints.slim(trained, tmp_path / "good.pth")
    try:
        checkpoints.slim(tmp_path / "c.pth", tmp_path / "slim.pth")
    except IntegrityError:
        assert not (tmp_path / "slim.pth").exists()
    else:
        assert (tmp_path / "slim.pth").read_bytes() == (tmp_path / "good.pth").read_bytes()
        (tmp_path / "slim.pth").unlink()


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_parse_or_are_one_error(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        pickles.parse(data)


def test_an_open_file_is_named_in_the_error() -> None:
    with pytest.raises(IntegrityError, match=r"^checkpoint: not a torch checkpoint"):
        checkpoints.scan(io.BytesIO(b"hello"))


# ---- the pickle language


@given(plain_values)
@settings(max_examples=200, deadline=None)
def test_dump_and_parse_are_inverse_and_agree_with_pickle(value: object) -> None:
    data = pickles.dump(value)
    assert pickles.parse(data) == (value, [])
    assert pickle.loads(data) == value
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickles.parse(pickle.dumps(value, protocol))[0] == value


def test_dump_refuses_what_is_not_plain() -> None:
    with pytest.raises(IntegrityError, match="set is no plain value"):
        pickles.dump({"a": {1}})
