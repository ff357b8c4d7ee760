"""What leaves the machine names no path, host, user or case."""

import io
import struct
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from registry import scrub
from registry.errors import IntegrityError, MregError
from registry.trainer_code import portable

SPLITS = [{"train": ["sub-amu01_T2w", "spine_0007"], "val": ["p042"]}]
LOG = "host bireli: reading /home/jdoe/my data/x.nii.gz"
KNOWN = scrub.scrubber(SPLITS, [{"hostname": "bireli.neuro.polymtl.ca"}], [LOG])


@pytest.mark.parametrize(
    "place",
    ["/home/jdoe/data", "/Users/jdoe/my data/x y", "/mnt/duke/temp", "~/data/x", "~jdoe/data/x", "file:///srv/a/b",
     "C:\\Users\\jdoe\\x", "C:/Users/jdoe", "d:\\data", "\\\\duke\\temp\\x", "\\\\\\\\duke\\\\temp", "/a/b"],
)  # fmt: skip
@pytest.mark.parametrize("frame", ["{}", "folder: {}", "'{}', 3", '"{}"]', "x={}", "path:{}", "({})", "{{'a': '{}'}}"])
def test_absolute_paths_go(place: str, frame: str) -> None:
    result = scrub.paths(frame.format(place))
    assert "<path>" in result
    for part in ("home", "jdoe", "duke", "srv", "data", "/a/b", "x y"):
        assert part not in result


@pytest.mark.parametrize(
    "text",
    ["https://github.com/ivadomed/model_seg_sci/releases", "1/2 mm/s and/or N/A", "data/raw/Dataset501_X", "10 / 3 / 2",
     "torch.nn.modules.conv.Conv3d", "2026-11-21 05:01:54.905563: epoch 3", "loss (a)/b/c", "ratio a: b", "<path>"],
)  # fmt: skip
def test_what_is_no_path_stays(text: str) -> None:
    assert scrub.paths(text) == text


def test_passwords_in_addresses_go() -> None:
    assert scrub.paths("from https://jdoe:secret@host.org/x y") == "from https://host.org/x y"


def test_a_quoted_path_ends_at_its_quote_and_a_bare_one_with_its_line() -> None:
    text = "{'a': '/home/x y/z', 'b': 2}\nreading /home/x y/z.nii.gz now\nnext line"
    assert scrub.paths(text) == "{'a': '<path>', 'b': 2}\nreading <path>\nnext line"


@given(st.text(alphabet="/'\"\n :\\~.Cab\t=,", max_size=60))
@example("//a/b /c")
@settings(max_examples=300, deadline=None)
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once = KNOWN.text(text)
    assert KNOWN.text(once) == once
    assert scrub.json_paths({"k": [once]}) == {"k": [once]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("predicting sub-amu01_T2w", "predicting <case>"),
        ("predicting sub-unf99_T1w.nii.gz done", "predicting <case> done"),
        ("case spine_0007_0000.nii.gz, spine_0007.", "case <case>, <case>"),
        ("p042: 0.5", "<case>: 0.5"),
        ("spine_00071 p0421 xp042", "spine_00071 p0421 xp042"),
        ("on bireli by jdoe", "on <name> by <name>"),
        ("run_jdoe_3", "run_<name>_3"),
        ("bireli.neuro.polymtl.ca", "<name>"),
        ("jdoes birelion", "jdoes birelion"),
    ],
)
def test_names_of_cases_hosts_and_users_go(text: str, expected: str) -> None:
    assert KNOWN.text(text) == expected


def test_common_names_and_short_case_names_stay() -> None:
    known = scrub.scrubber([{"train": ["1", "02"], "val": []}], [{}], ["/root/x /home/user/y"])
    assert known.text("fold 1 of 02, user root") == "fold 1 of 02, user root"


def test_dataset_json_keeps_its_contract_and_its_order() -> None:
    document = {
        "training": [{"image": "/x/y"}],
        "labels": {"background": 0, "p042": 1},
        "test": [],
        "channel_names": {"0": "/odd/name"},
        "subjects": {"a": ["spine_0007"]},
        "note": "made in /home/jdoe/x",
        "dataset_versions": ["abc", {"k": "/srv/data/x"}],
        "numTraining": 3,
    }
    kept = KNOWN.dataset(document)
    assert list(kept) == ["labels", "channel_names", "note", "dataset_versions", "numTraining"]
    assert kept["labels"] == document["labels"]
    assert kept["channel_names"] == document["channel_names"]
    assert kept["note"] == "made in <path>"
    assert kept["dataset_versions"] == ["abc", {"k": "<path>"}]


def test_debug_json_keeps_a_known_few() -> None:
    document = {
        "hostname": "bireli",
        "log_file": "/home/jdoe/x",
        "num_epochs": "5",
        "loss": "L(/home/jdoe/x)",
        "fold": 0,
    }
    assert KNOWN.debug(document) == {"fold": "0", "loss": "L(<path>", "num_epochs": "5"}


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "png", pnginfo=info)
    return file.getvalue()


def test_a_picture_loses_its_texts_only() -> None:
    data = png(Author="jdoe", Comment="/home/jdoe") + b"trailing jdoe"
    clean = scrub.picture(data, "x.png")
    assert b"jdoe" not in clean
    assert clean == png()
    assert Image.open(io.BytesIO(clean)).tobytes() == b"\xff\0\0" * 6


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_truncated_picture_is_an_error(length: int) -> None:
    with pytest.raises(IntegrityError, match=r"x\.png"):
        scrub.picture(png()[:length], "x.png")


def test_a_damaged_picture_is_an_error() -> None:
    data = bytearray(png())
    data[-20] ^= 1
    with pytest.raises(IntegrityError, match=r"x\.png: damaged"):
        scrub.picture(bytes(data), "x.png")
    huge = data[:8] + struct.pack(">I4s", 0xFFFFFFFF, b"IDAT") + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(IntegrityError, match=r"x\.png"):
        scrub.picture(bytes(huge), "x.png")


@pytest.mark.parametrize(
    ("line", "leaks"),
    [("PATH = '/home/jdoe/x'", True), ("# by jdoe", True), ("x = f'/srv/data/{y}'", True), ("x = 'p042'", True),
     ("x = a//b/c", False), ("x = (a)/b", False), ("'''Epochs /day.'''", False)],
)  # fmt: skip
def test_code_that_names_a_path_or_a_case_is_refused_with_its_line(line: str, leaks: bool) -> None:
    text = f"import os\n{line}\n"
    if leaks:
        with pytest.raises(MregError, match=r"t\.py: line 2"):
            KNOWN.code(text, "t.py")
    else:
        KNOWN.code(text, "t.py")


def test_portable_adds_the_function_once() -> None:
    code = "class nnUNetTrainerX:\n    pass\n\n\n"
    made = portable(code, "nnUNetTrainerX", "t.py")
    assert made.startswith(code.rstrip())
    assert portable(made, "nnUNetTrainerX", "t.py") == made
    names: dict = {}
    exec(made, names)  # noqa: S102 - what SCT does with it
    assert names["get_trainer_class"]() is names["nnUNetTrainerX"]


@pytest.mark.parametrize(
    ("code", "message"),
    [("class Other:\n    pass\n", "it defines Other"), ("def f(", "not Python"), ("x = 1", "it defines no class"),
     ("if True:\n    class nnUNetTrainerX: pass", "it defines no class"), ("x = '\0'", "not Python")],
)  # fmt: skip
def test_portable_refuses_a_file_without_the_class(code: str, message: str) -> None:
    with pytest.raises(MregError, match=message):
        portable(code, "nnUNetTrainerX", "t.py")
