"""Layouts of archives: what SCT's own installer was seen to do with each, and that mreg gives the same verdict."""

import json
import zipfile
from pathlib import Path

import pytest
from fixtures_run import TRAINER_FOLDER

from registry.checks import check

LAYOUTS = json.loads((Path(__file__).parent / "data" / "checks" / "layouts.json").read_text())


@pytest.fixture(scope="module")
def members(tiny_package):
    """Return path → bytes of the trainer folder of a good archive."""
    with zipfile.ZipFile(tiny_package.archive) as source:
        return {name.removeprefix(f"{TRAINER_FOLDER}/"): source.read(name) for name in source.namelist()}


def moved(members: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """Return the files of a path, and below it, under another."""
    return {new + path[len(old) :]: data for path, data in members.items() if f"{path}/".startswith(f"{old}/")}


def laid_out(layout: dict, members: dict[str, bytes]) -> dict[str, bytes]:
    """Return path → bytes of an archive as a row of the table describes it; T is the trainer folder."""
    files = {path: data for path, data in members.items() if path not in layout.get("remove", [])}
    for old, new in layout.get("move", {}).items():
        there = moved(files, old, new)
        assert there
        files = {path: data for path, data in files.items() if not f"{path}/".startswith(f"{old}/")} | there
    for old, new in layout.get("copy", {}).items():
        files |= moved(files, old, new)
    files |= {path: text.encode() for path, text in layout.get("add", {}).items()}
    tops = [place.replace("T", TRAINER_FOLDER) if place.endswith("T") else place for place in layout.get("at", ["T"])]
    placed = {f"{top}/{path}".lstrip("/"): data for top in tops for path, data in files.items()}
    beside = layout.get("beside", {})
    return placed | {path.replace("T/", f"{TRAINER_FOLDER}/"): text.encode() for path, text in beside.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["layout"])
def test_the_verdict_is_scts(layout, members, tmp_path):
    path = tmp_path / "model_seg_sc_t2-r20260131.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in laid_out(layout, members).items():
            archive.writestr(name, data)
    report = check(path)
    assert {finding.code for finding in report.findings} == set(layout["codes"])
    assert report.ok == (layout["sct"] == "works")


def test_the_table_has_both_verdicts():
    assert {layout["sct"] for layout in LAYOUTS} == {"works", "stops"}
    assert len({layout["layout"] for layout in LAYOUTS}) == len(LAYOUTS)
