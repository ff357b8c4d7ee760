"""`mreg diff` and `mreg check --against`: what changed since a release, and what of it breaks something."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fixtures_release import TAG, publish
from fixtures_run import NAME, TRAINER_FOLDER
from fixtures_stores import new_worktree
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import differences, snapshots
from registry.changes import KINDS
from registry.manifest import MANIFEST_NAME
from registry.manifest import read as read_manifest
from registry.snapshot_sources import of_path
from registry.snapshots import ModelFacts, Snapshot
from registry.yank import yank

NEXT = "r20260228"
BASE = ModelFacts(asset=f"{NAME}-{TAG}.zip", trainer_folder=TRAINER_FOLDER)


def compared(**facts) -> dict[str, str]:
    """Compare two models that differ in some facts, each given as (old, new): code → what it means."""
    pair = [
        Snapshot(
            title=str(side), name=NAME, tag=str(side), models=(replace(BASE, **{k: v[side] for k, v in facts.items()}),)
        )
        for side in (0, 1)
    ]
    return {change.code: change.meaning for change in differences.changes(*pair)}


def next_package(package, folder: Path, tag: str = NEXT, change=None) -> list[Path]:
    """Return archive and manifest of a later release, whose manifest `change` may edit."""
    folder.mkdir()
    archive = folder / f"{NAME}-{tag}.zip"
    shutil.copy(package.archive, archive)
    document = json.loads(package.manifest.read_text().replace(TAG, tag))
    if change:
        change(document)
    (folder / MANIFEST_NAME).write_text(json.dumps(document))
    return [archive, folder / MANIFEST_NAME]


def turned(document: dict) -> None:
    document["models"][0]["orientation"] = "LPI"
    document["models"][0]["metrics"]["mean"]["sc"]["dice"] = 0.85
    document["models"][0]["versions"]["torch"] = "2.14.0"
    document["licence"] = "CC-BY-4.0"


@pytest.fixture
def two_releases(released, tiny_package, tmp_path):
    """A registry of each kind with two releases, the second turned round."""
    publish(released, NEXT, *next_package(tiny_package, tmp_path / "next", change=turned))
    return released


def against(mreg, target, ref, store, *flags) -> dict[str, dict]:
    result = mreg("check", target, "--against", ref, "--registry", store.location, "--json", *flags)
    found = json.loads(result.stdout)["findings"]
    return {finding["code"]: finding for finding in found if finding["code"].startswith("CHANGE")}


# --- what a change means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        ({"trainer_folder": (TRAINER_FOLDER, "nnUNetTrainerX__nnUNetPlans__3d_fullres")}, "CHANGE001", "two"),
        ({"suffixes": (("_seg",), ("_sc_seg", "_lesion_seg"))}, "CHANGE002", "_seg find no file"),
        ({"suffixes": (("_sc_seg",), ("_sc_seg", "_lesion_seg"))}, "CHANGE022", "a file more"),
        ({"orientation": ("RPI", "LPI")}, "CHANGE003", "silently"),
        ({"channels": ({"0": "T2w"}, {"0": "T2w", "1": "T1w"})}, "CHANGE004", "one only"),
        ({"channels": ({"0": "T1w", "1": "T2w"}, {"0": "T2w", "1": "T1w"})}, "CHANGE004", "old order"),
        ({"channels": ({"0": "T2w"}, {"0": "CT"})}, "CHANGE004", "normalisation"),
        ({"channels": ({"0": "T2w"}, {"0": "T2"})}, "CHANGE023", "nothing"),
        ({"labels": ({"sc": (1,), "lesion": (2,)}, {"sc": (2,), "lesion": (1,)})}, "CHANGE005", "numbers"),
        ({"labels": ({"sc": (1,)}, {"sc": (1, 2)})}, "CHANGE005", "other parts"),
        ({"own_code": (False, True)}, "CHANGE006", "trainer_class.py"),
        ({"own_code": (True, False)}, "CHANGE021", "no code"),
        ({"trainer": ("nnUNetTrainer", "nnUNetTrainer_250epochs")}, "CHANGE021", "trainer"),
        ({"folds": (("0",), ("all",))}, "CHANGE007", "-single-fold"),
        ({"folds": (("0",), ("0", "1", "2", "3", "4"))}, "CHANGE024", "5 times"),
        ({"folds": (("0",), ("3",))}, "CHANGE024", "other folds"),
        ({"crop": ("ab", "")}, "CHANGE009", "stops"),
        ({"crop": ("", "ab")}, "CHANGE032", "cropped_image"),
        ({"network": ({"patch size": "64x64"}, {"patch size": "96x96"})}, "CHANGE025", "plans"),
        ({"parameters": (1000, 2000)}, "CHANGE026", "weights"),
        ({"dtype": ("float32", "float16")}, "CHANGE026", "type"),
        ({"weights": ({"fold_0": "ab"}, {"fold_0": "ab"})}, "CHANGE026", "old weights"),
        ({"sha256": ("ab", "ab")}, "CHANGE027", "same bytes"),
        ({"size": (341_000_000, 228_000_000)}, "CHANGE027", "size"),
        ({"data": (("D501", 4), ("D501", 9))}, "CHANGE029", "data"),
        ({"layout": ("root", "dataset")}, "CHANGE031", "both"),
        ({"versions": ({"torch": "2.2"}, {"torch": "2.13"})}, "CHANGE034", "software"),
    ],
)  # fmt: skip
def test_each_change_has_its_code_and_its_meaning(facts, code, words):
    found = compared(**facts)
    assert set(found) == {code}
    assert words in found[code]


@pytest.mark.parametrize("name", ["orientation", "labels", "suffixes", "folds", "crop", "network", "size", "metrics"])
def test_a_fact_that_one_side_does_not_know_is_no_change(name):
    value = {"orientation": "RPI", "size": 7, "crop": "ab", "folds": ("0",), "suffixes": ("_seg",)}.get(
        name, {"a": "1"}
    )
    if name != "metrics":
        assert compared(**{name: (None, value)}) == compared(**{name: (value, None)}) == {}


def test_an_other_orientation_of_the_same_weights_is_a_mistake_in_one_of_them():
    weights = {"fold_0": "ab"}
    assert "one of the two is wrong" in compared(orientation=("RPI", "LPI"), weights=(weights, weights))["CHANGE003"]


def test_variants_are_compared_with_themselves():
    one, two = replace(BASE, variant="small"), replace(BASE, variant="large", folds=("0",))
    old = Snapshot(title="old", models=(one, two))
    new = Snapshot(title="new", models=(replace(two, asset="b.zip", folds=("0", "1")), replace(one, asset="a.zip")))
    assert [(change.code, change.model) for change in differences.changes(old, new)] == [("CHANGE024", "b.zip")]
    codes = {change.code for change in differences.changes(old, replace(new, models=new.models[:1]))}
    assert "CHANGE008" in codes
    codes = {change.code for change in differences.changes(replace(old, models=(one,)), new)}
    assert "CHANGE030" in codes


def test_every_code_below_20_breaks_and_no_other():
    assert {code for code, kind in KINDS.items() if kind.breaking} == {c for c in KINDS if int(c[-3:]) < 20}


# --- between releases ------------------------------------------------------------------------------------------------


def test_two_releases_are_told_apart_by_their_manifests(two_releases, mreg):
    document = json.loads(mreg("diff", f"{NAME}@{TAG}", NAME, "--registry", two_releases.location, "--json").stdout)
    assert (document["old"], document["new"], document["compatible"]) == (f"{NAME}@{TAG}", f"{NAME}@{NEXT}", False)
    found = {change["code"]: change for change in document["changes"]}
    assert set(found) == {"CHANGE003", "CHANGE026", "CHANGE027", "CHANGE028", "CHANGE033", "CHANGE034"}
    assert found["CHANGE003"]["old"] == "RPI (SCT; nibabel LAS)"
    assert found["CHANGE028"]["what"] == "Dice of sc"
    assert (found["CHANGE028"]["old"], found["CHANGE028"]["new"]) == ("0.900", "0.850")
    assert found["CHANGE033"]["what"] == "licence"


def test_a_release_is_read_by_its_manifest_alone(two_releases, mreg, monkeypatch):
    opened = []
    open_asset = type(two_releases).open_asset

    def counted(self, release, asset, offset=0):
        opened.append(asset.name)
        return open_asset(self, release, asset, offset)

    monkeypatch.setattr(type(two_releases), "open_asset", counted)
    mreg("diff", f"{NAME}@{TAG}", NAME, "--registry", two_releases.location)
    assert opened == [MANIFEST_NAME, MANIFEST_NAME]


def test_where_the_plans_changed_they_are_read_from_the_archives(released, tiny_package, tmp_path, mreg):
    def other_plans(document):
        for member in document["models"][0]["members"]:
            if member["path"].endswith("plans.json"):
                member["sha256"] = "0" * 64

    archive, manifest = next_package(tiny_package, tmp_path / "next", change=other_plans)
    rewritten(archive, "plans.json", lambda text: text.replace('"patch_size": [\n', '"patch_size": [\n 32,', 1))
    document = json.loads(manifest.read_text())
    document["assets"][0] |= {"size": archive.stat().st_size, "sha256": digest(archive)}
    manifest.write_text(json.dumps(document))
    publish(released, NEXT, archive, manifest)
    result = mreg("diff", f"{NAME}@{TAG}", f"{NAME}@{NEXT}", "--registry", released.location)
    assert "compatible  CHANGE025  patch size: 16x16x16 → 32x16x16x16" in result.stdout


def test_a_release_without_manifest_is_read_from_its_archive(registry, tiny_package, tmp_path, mreg):
    publish(registry, TAG, tiny_package.archive)
    result = mreg("diff", NAME, tiny_package.archive, "--registry", registry.location, "--json")
    found = {change["code"] for change in json.loads(result.stdout)["changes"]}
    assert found == set()


def test_the_same_weights_under_another_tag_are_told(registry, tiny_package, tmp_path, mreg):
    publish(registry, TAG, tiny_package.archive)
    archive = tmp_path / f"{NAME}-{NEXT}.zip"
    shutil.copy(tiny_package.archive, archive)
    result = mreg("diff", NAME, archive, "--registry", registry.location)
    assert "compatible  CHANGE026  weights: the same" in result.stdout
    assert "compatible  CHANGE027  archive: the same" in result.stdout


def test_crop_metadata_that_a_repo_leaves_out_breaks_sct(released, tiny_package, repo_with_run, tmp_path, mreg):
    def cropped(document):
        document["models"][0]["members"].append({"path": "crop_metadata.json", "size": 2, "sha256": "0" * 64})

    publish(released, NEXT, *next_package(tiny_package, tmp_path / "next", change=cropped))
    assert "CHANGE009" in mreg("diff", NAME, repo_with_run, "--registry", released.location).stdout


def test_a_run_is_compared_with_a_release(released, tiny_run, mreg):
    result = mreg("diff", NAME, tiny_run, "--registry", released.location)
    assert result.stdout.splitlines()[-1] == "nothing changed"


def test_what_cannot_be_compared_is_refused(released, tmp_path, mreg):
    result = mreg("diff", NAME, tmp_path, "--registry", released.location)
    assert result.exit_code == 1
    assert "neither an archive" in result.stderr
    assert mreg("diff", NAME).exit_code == 2
    missing = mreg("diff", NAME, f"{NAME}@r20200101", "--registry", released.location)
    assert missing.exit_code == 1
    assert "no published release" in missing.stderr


# --- mreg check --against --------------------------------------------------------------------------------------------


def test_an_archive_is_compared_with_the_newest_other_release(two_releases, tiny_package, mreg):
    found = against(mreg, tiny_package.archive, "latest", two_releases)  # its own tag is the older one
    assert found["CHANGE003"]["level"] == "error"
    assert f"{NAME}@{NEXT}" in found["CHANGE003"]["message"]
    assert found["CHANGE003"]["path"] == f"{TRAINER_FOLDER}/dataset.json"
    assert found["CHANGE003"]["line"] > 1
    assert against(mreg, tiny_package.archive, f"{NAME}@{TAG}", two_releases) == {}


def test_a_published_release_is_not_compared_with_itself(two_releases, mreg):
    found = against(mreg, f"{NAME}@{NEXT}", NAME, two_releases)
    assert f"{NAME}@{TAG}, LPI" in found["CHANGE003"]["message"]


def test_a_yanked_release_is_passed_over(two_releases, tiny_package, tmp_path, mreg):
    yank(f"{NAME}@{NEXT}", two_releases, reason="left and right are swapped")
    (archive, _) = next_package(tiny_package, tmp_path / "third", "r20260331")
    assert "CHANGE003" not in against(mreg, archive, "latest", two_releases)


@pytest.mark.parametrize("ref", ["latest", NAME])
def test_without_an_earlier_release_there_is_a_note(registry, tiny_package, mreg, ref):
    found = against(mreg, tiny_package.archive, ref, registry)
    assert {code: finding["level"] for code, finding in found.items()} == {"CHANGE020": "note"}


def test_a_repository_that_nobody_has_published_has_a_note(store, tiny_package, mreg):
    assert set(against(mreg, tiny_package.archive, "latest", store)) == {"CHANGE020"}


def test_a_repos_contract_is_compared_line_by_line(released, repo_with_run, mreg):
    contract = json.loads((repo_with_run / "runs" / "3d_fullres-1a2b3c4d" / "dataset.json").read_text())
    assert against(mreg, repo_with_run, "latest", released) == {}
    text = json.dumps({**contract, "labels": {"background": 0, "sc": 1, "lesion": 2}}, indent=2)
    (repo_with_run / "dataset.json").write_text(text)
    found = against(mreg, repo_with_run, "latest", released)
    assert set(found) == {"CHANGE002"}
    assert "wait for _seg find no file" in found["CHANGE002"]["message"]
    assert '"labels"' in text.splitlines()[found["CHANGE002"]["line"] - 1]


def test_a_change_that_model_toml_accepts_is_a_note_and_a_stale_one_is_told(released, repo_with_run, mreg):
    contract = json.loads((repo_with_run / "runs" / "3d_fullres-1a2b3c4d" / "dataset.json").read_text())
    (repo_with_run / "dataset.json").write_text(json.dumps({**contract, "image_orientation": "LPI"}, indent=2))
    toml = repo_with_run / "model.toml"
    toml.write_text(toml.read_text() + '\n[release]\naccept = ["CHANGE003", "CHANGE007"]\n')
    found = against(mreg, repo_with_run, "latest", released)
    assert {code: finding["level"] for code, finding in found.items()} == {"CHANGE003": "note", "CHANGE035": "note"}
    assert found["CHANGE003"]["message"].endswith("accepted in model.toml")
    assert "CHANGE007" in found["CHANGE035"]["message"]


def test_a_repository_without_a_clone_is_compared_too(released, tiny_run, tmp_path, mreg):
    name = "model_seg_sc_t2_unet3d"
    files = {"model.toml": (tiny_run.parents[1] / "model.toml").read_text().replace(NAME, name)}
    files["dataset.json"] = (tiny_run / "dataset.json").read_text().replace("RPI", "LPI")
    (tmp_path / "other").mkdir()
    new_worktree(tmp_path / "other", {path: text.encode() for path, text in files.items()})
    released.create_repo(name, description="", topics=())
    released.push_first_commit(name, tmp_path / "other")
    found = against(mreg, name, f"{NAME}@{TAG}", released)
    assert {"CHANGE003", "CHANGE033"} == set(found)
    assert found["CHANGE003"]["path"] == "dataset.json"


def test_an_address_and_a_repository_of_github_are_compared_with_their_releases(
    released_github, tiny_package, tiny_run, tmp_path, mreg
):
    publish(released_github, NEXT, *next_package(tiny_package, tmp_path / "next", change=turned))
    address = next(a.url for a in released_github.releases(NAME)[-1].assets if a.name.endswith(".zip"))
    assert address.startswith("http")
    assert "CHANGE003" in against(mreg, address, "latest", released_github)
    document = json.loads(mreg("diff", address, f"{NAME}@{NEXT}", "--json").stdout)
    assert document["old"] == address
    assert "CHANGE003" in {change["code"] for change in document["changes"]}
    files = {path: (tiny_run.parents[1] / path).read_bytes() for path in ("model.toml",)}
    files["dataset.json"] = (tiny_run / "dataset.json").read_bytes()
    (tmp_path / "other").mkdir()
    new_worktree(tmp_path / "other", files)
    released_github.create_repo("model_seg_sc", description="", topics=())
    released_github.push_first_commit("model_seg_sc", tmp_path / "other")
    found = json.loads(mreg("check", "ivadomed/model_seg_sc", "--against", "latest", "--json").stdout)["findings"]
    (change,) = [finding for finding in found if finding["code"] == "CHANGE003"]
    assert f"{NAME}@{NEXT}" in change["message"]  # the name in model.toml
    assert change["path"] == "dataset.json"


def test_a_target_that_cannot_be_read_keeps_its_other_findings(released, repo_with_run, mreg):
    (repo_with_run / "model.toml").write_text("name = ")
    result = mreg("check", repo_with_run, "--against", NAME, "--registry", released.location, "--json")
    assert {"CHANGE010", "REPO001"} <= {finding["code"] for finding in json.loads(result.stdout)["findings"]}


def test_nobody_knows_which_model_an_archive_without_a_name_is(released, tiny_package, tmp_path, mreg):
    shutil.copy(tiny_package.archive, tmp_path / "model.zip")
    result = mreg("check", tmp_path / "model.zip", "--against", "latest", "--registry", released.location)
    assert result.exit_code == 1
    assert "nobody says which model" in result.stderr


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(
    labels=ANY | st.dictionaries(st.sampled_from(["background", "sc", "lvl1", "ignore"]), ANY),
    channels=ANY,
    code=ANY,
    configuration=st.dictionaries(st.sampled_from(["patch_size", "spacing", "architecture", "inherits_from"]), ANY),
)
def test_whatever_a_strangers_archive_says_can_be_compared(labels, channels, code, configuration):
    dataset = {"labels": labels, "channel_names": channels, "image_orientation": code, "numTraining": code}
    plans = {"dataset_name": code, "configurations": {"3d_fullres": configuration}}
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{NAME}-{TAG}.zip")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{TRAINER_FOLDER}/dataset.json", json.dumps(dataset))
            archive.writestr(f"{TRAINER_FOLDER}/plans.json", json.dumps(plans))
        found = of_path(path)
    known = Snapshot(
        title="known", models=(replace(BASE, labels={"sc": (1,)}, channels={"0": "T2w"}, orientation="RPI"),)
    )
    for pair in ((found, known), (known, found), (found, found)):
        for change in differences.changes(*pair):
            json.dumps(change.as_json())


def rewritten(path: Path, name: str, change) -> None:
    """Change the text of a member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, change(data.decode()) if member.endswith(name) else data)


def digest(path: Path) -> str:
    from registry.files import sha256

    return sha256(path)


def test_a_snapshot_of_an_archive_says_what_its_manifest_says(tiny_package):
    manifest = snapshots.of_manifest(read_manifest(tiny_package.manifest), "manifest")
    (said,), (found,) = manifest.models, of_path(tiny_package.archive).models
    assert replace(found, places={}, network=None) == said
