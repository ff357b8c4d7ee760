"""mreg list: words that models are found by, and a table that fits its terminal."""

import json

import pytest
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME

from registry import notes
from registry.models import summaries

NAMES = ["model_seg_gm-wm_mouse_t1", "model_seg_lesion_ms_t2_unet3d", NAME]
BLOCK = notes.Block(archive="x.zip", orientation="RPI", labels=("sc", "lesion"))


@pytest.fixture
def many(store, tmp_path):
    """A registry with three models, one of them released."""
    for name in NAMES:
        add_repo(store, tmp_path / "first-commits" / name, name, description=f"About {name}")
    (tmp_path / "x.zip").write_bytes(b"x")
    publish(store, TAG, tmp_path / "x.zip", notes=notes.write_block("Hello", BLOCK))
    return store


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["LESION"], ["model_seg_lesion_ms_t2_unet3d", NAME]),  # a word of the name, and a label of the release
        (["lesion", "unet3d"], ["model_seg_lesion_ms_t2_unet3d"]),
        (["about", "mouse"], ["model_seg_gm-wm_mouse_t1"]),
        (["kidney"], []),
    ],
)
def test_models_are_found_by_words_of_name_description_and_labels(many, mreg, words, expected):
    assert [summary.name for summary in summaries(many, words=words)] == expected
    found = json.loads(mreg("list", *words, "--json", "--registry", many.location).stdout)
    assert [entry["name"] for entry in found] == expected


def test_on_a_terminal_a_description_is_cut_and_nothing_else(many, mreg, monkeypatch):
    whole = mreg("list", "--registry", many.location).stdout
    assert f"About {NAME}\n" in whole
    monkeypatch.setattr("registry.output.width", lambda: 90)
    lines = mreg("list", "--registry", many.location).stdout.splitlines()
    assert max(map(len, lines)) == 90
    assert any(line.endswith("…") for line in lines)
    monkeypatch.setattr("registry.output.width", lambda: 20)
    assert all(name in mreg("list", "--registry", many.location).stdout for name in NAMES)
