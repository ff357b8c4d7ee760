"""`mreg check` on every kind of target: what is good finds nothing, and no target, however broken, is a crash."""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from check_examples import tiny_weights
from fixtures_run import NAME, TRAINER_FOLDER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.checks import all_rules, check, every_kind
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.findings import Report
from registry.scaffold_files import plan, render

ARCHIVE = f"{NAME}-r20260131.zip"
CHECKPOINT = "fold_0/checkpoint_final.pth"


def members_of(archive: Path) -> dict[str, bytes]:
    """Return what lies in the trainer folder of an archive."""
    with zipfile.ZipFile(archive) as source:
        return {name.removeprefix(f"{TRAINER_FOLDER}/"): source.read(name) for name in source.namelist()}


def write_zip(path: Path, members: dict, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data if isinstance(data, bytes) else data.encode())
    return path


def placed(members: dict[str, bytes], folder: str = TRAINER_FOLDER) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in members.items()}


def changed(document: bytes, **keys: object) -> bytes:
    """Return a JSON object with other values; None removes a key."""
    new = json.loads(document) | keys
    return json.dumps({key: value for key, value in new.items() if value is not None}).encode()


def codes(report: Report, *levels: str) -> set[str]:
    return {finding.code for finding in report.findings if not levels or finding.level in levels}


def saved(**parts: object) -> bytes:
    """Return a checkpoint as torch writes it: nnU-Net's keys, and what a test changes."""
    import torch

    base = {
        "network_weights": tiny_weights(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    file = io.BytesIO()
    torch.save({**base, **parts}, file)
    return file.getvalue()


class Evil:
    """Starts a command when a program unpickles it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def members(tiny_package):
    return members_of(tiny_package.archive)


@pytest.fixture
def pack(members, tmp_path):
    """Write an archive of the tiny model with changes: path → bytes, text, or None to leave a file out."""

    def write(changes: dict | None = None, *, name: str = ARCHIVE, folder: str = TRAINER_FOLDER, beside=None) -> Path:
        files = {path: data for path, data in (members | (changes or {})).items() if data is not None}
        return write_zip(tmp_path / name, placed(files, folder) | (beside or {}))

    return write


@pytest.fixture
def repo(tmp_path):
    """A new model's repository, as mreg new writes it."""
    root = tmp_path / "work" / NAME
    for path, text in render(plan(NAME, recipe="nnunet", licence="MIT", authors=("Ada Lovelace",))).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / ".git").mkdir()
    return root


@pytest.fixture
def run(repo_with_run):
    return repo_with_run / "runs" / "3d_fullres-1a2b3c4d"


T = TRAINER_FOLDER


def test_compressed_archives_are_judged_like_stored_ones(members, tmp_path):
    assert check(write_zip(tmp_path / ARCHIVE, placed(members), zipfile.ZIP_DEFLATED)).findings == ()


def test_what_mreg_makes_has_no_finding(tiny_package, run, repo, tmp_path):
    assert check(tiny_package.archive).findings == ()
    assert check(run).findings == ()
    assert check(repo).findings == ()
    with zipfile.ZipFile(tiny_package.archive) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert check(tmp_path / "unpacked" / T).findings == ()


def rename(archive: Path, name: str) -> Path:
    return archive.rename(archive.with_name(name))


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


TRAINER = """\
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock


class nnUNetTrainer(stock.nnUNetTrainer):
    pass
"""
FUNCTION = "\n\ndef get_trainer_class():\n    return nnUNetTrainer\n"

BAD_DATASET_JSON = {
    "MODEL007": {"channel_names": {"0": "T2w", "1": "T1w"}},
    "ORIENT001": {"image_orientation": "rpi"},
    "PRIVACY005": {"training": [{"image": "sub-01.nii.gz"}]},
    "SCHEMA001": {"file_ending": None},
    "ORIENT004": {"image_orientation": None, "orientation": "RPI"},
    "SCHEMA003": {"file_ending": "nii.gz"},
    "LABEL004": {"labels": {"background": 0, "sc": 2}},
    "LABEL015": {"labels": {"background": 0, "canal_seg": 1}},
    "CHANNEL001": {"channel_names": {"1": "T2w"}},
}


def test_codes_are_unique_and_every_rule_says_what_should_be():
    rules = all_rules()
    assert len({rule.code for rule in rules}) == len(rules)
    assert all(rule.summary.endswith(".") and len(rule.summary) < 120 for rule in rules)


@pytest.mark.parametrize("code", BAD_DATASET_JSON)
def test_a_bad_dataset_json_is_found_in_archive_and_run(code, pack, members, run):
    bad = changed(members["dataset.json"], **BAD_DATASET_JSON[code])
    assert code in codes(check(pack({"dataset.json": bad})))
    (run / "dataset.json").write_bytes(bad)
    assert (code in codes(check(run))) == (not code.startswith("PRIVACY"))  # a run is nobody else's business


@pytest.mark.parametrize("code", ["XYZ", "", "RPIS", "RRI", "ras+", 3, ["R", "P", "I"]])
def test_impossible_orientations_are_errors(code, pack, members):
    report = check(pack({"dataset.json": changed(members["dataset.json"], image_orientation=code)}))
    assert codes(report, "error") == {"ORIENT001"}


def test_orientations_are_said_in_both_conventions(pack, members):
    (found,) = check(pack({"dataset.json": changed(members["dataset.json"], image_orientation="rpi")})).findings
    assert found.hint == "did you mean RPI (SCT; nibabel LAS)?"
    (found,) = check(pack({"dataset.json": changed(members["dataset.json"], image_orientation=None)})).findings
    assert "LPI (SCT; nibabel RAS)" in found.message


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth", "x.pt"])
def test_a_malicious_checkpoint_is_reported_and_not_executed(name, pack, tmp_path):
    import torch

    marker = tmp_path / "executed"
    bad = saved(x=Evil(f"touch {marker}"))
    report = check(pack({f"fold_0/{name}": bad}))
    (found,) = [f for f in report.findings if f.code == "CKPT002"]
    assert (found.level, found.path) == ("error", f"{T}/fold_0/{name}")
    assert "system" in found.message
    assert not marker.exists()
    torch.load(io.BytesIO(bad), weights_only=False)  # the example is a real one
    assert marker.exists()


@pytest.mark.parametrize("call", ["numpy.testing._private.utils.runstring", "builtins.exec", "nt.system"])
def test_a_name_that_begins_like_a_harmless_one_is_not_harmless(call, pack):
    class Named:
        def __reduce__(self):
            return print, ("x",)

    module, _, name = call.rpartition(".")
    with zipfile.ZipFile(io.BytesIO(saved(x=Named()))) as source:
        inner = {info.filename: source.read(info) for info in source.infolist()}
    key = next(key for key in inner if key.endswith("data.pkl"))
    assert b"c__builtin__\nprint\n" in inner[key] or b"cbuiltins\nprint\n" in inner[key]
    for old in (b"c__builtin__\nprint\n", b"cbuiltins\nprint\n"):
        inner[key] = inner[key].replace(old, f"c{module}\n{name}\n".encode())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for path, data in inner.items():
            target.writestr(path, data)
    report = check(pack({CHECKPOINT: file.getvalue()}))
    assert "CKPT002" in codes(report, "error")


def test_a_trainer_class_is_never_imported(pack, tmp_path):
    marker = tmp_path / "imported"
    text = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    check(pack({"trainer_class.py": text + TRAINER + FUNCTION}))
    assert not marker.exists()


def test_a_custom_trainer_with_its_class_is_good(pack):
    name = "nnUNetTrainerMine"
    text = TRAINER.replace("class nnUNetTrainer(", f"class {name}(") + FUNCTION.replace("nnUNetTrainer\n", f"{name}\n")
    files = {"trainer_class.py": text, CHECKPOINT: saved(trainer_name=name)}
    assert check(pack(files, folder=f"{name}__nnUNetPlans__3d_fullres")).findings == ()


def test_a_trainer_that_scts_nnunet_lacks_is_told(pack):
    name = "nnUNet_PrimusV2S_Trainer"
    report = check(pack({CHECKPOINT: saved(trainer_name=name)}))
    assert any("nnunetv2-neuropoly" in finding.message for finding in report.findings if finding.code == "TRAINER001")


def test_bytes_that_are_not_the_manifests_are_located(tiny_package, members, tmp_path):
    shutil.copy(tiny_package.manifest, tmp_path)
    other = {**members, "dataset.json": members["dataset.json"] + b"\n"}
    report = check(write_zip(tmp_path / tiny_package.archive.name, placed(other)))
    assert {f.path for f in report.findings if f.code == "MANIFEST001"} == {"", f"{T}/dataset.json"}
    (tmp_path / tiny_package.manifest.name).write_text("{")
    assert "MANIFEST001" in codes(check(tmp_path / tiny_package.archive.name), "error")


def test_an_archive_larger_than_githubs_limit_is_an_error(pack, monkeypatch):
    from registry.checks import archive

    path = pack()
    monkeypatch.setattr(archive, "LARGEST_ASSET", path.stat().st_size - 1)
    assert codes(check(path)) == {"ARCHIVE007"}


def test_links_and_members_outside_are_reported_and_not_followed(pack):
    path = pack(beside={"/etc/cron.d/x": b"x", "..\\x": b"x"})
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = [f.path for f in check(path).findings if f.code == "ARCHIVE003"]
    assert sorted(found) == ["..\\x", "/etc/cron.d/x", "link"]


def test_a_member_without_a_name_is_reported(pack):
    path = pack(beside={"Q": b"x"})
    path.write_bytes(path.read_bytes().replace(b"Q", b"\0"))
    report = check(path)
    assert "\\x00" in [f.path for f in report.findings if f.code == "ARCHIVE003"]


def test_a_zip_bomb_is_reported_and_not_inflated(pack, monkeypatch):
    from registry import survey, tree, unpack

    for module in (survey, tree, unpack):
        monkeypatch.setattr(module, "HARMLESS_BYTES", 1 << 20)
    path = pack()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{T}/bomb.json", b"0" * (64 << 20))
    report = check(path)
    assert {"ARCHIVE003", "ARCHIVE009", "JSON001"} <= codes(report, "error")


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"not a zip at all", b"\x1f\x8b tar"])
def test_what_is_no_zip_is_one_clear_error(text, tmp_path):
    path = tmp_path / ARCHIVE
    path.write_bytes(text)
    with pytest.raises(IntegrityError, match="not a zip archive"):
        check(path)


def test_a_truncated_archive_is_one_clear_error(pack):
    path = pack()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match="cut off"):
        check(path)


def test_a_folder_that_is_nothing_is_one_clear_error(tmp_path):
    with pytest.raises(MregError, match="neither a repo"):
        check(tmp_path)
    with pytest.raises(NotFoundError):
        check(tmp_path / "missing")
    with pytest.raises(MregError):
        check("a\0b")


def test_the_data_of_a_repo_are_checked_on_request(repo):
    assert check(repo).ok
    assert "no dataset was imported" in next(f.message for f in check(repo, data=True).findings)
    dataset = repo / "data" / "raw" / "Dataset501_SpinalCordT2w"
    (dataset / "imagesTr").mkdir(parents=True)
    (dataset / "dataset.json").write_text("{}")
    assert check(repo).ok
    report = check(repo, data=True)
    assert "SCHEMA001" in codes(report, "error")
    place = "data/raw/Dataset501_SpinalCordT2w"
    assert f"{place}/dataset.json" in {finding.path for finding in report.findings}
    assert all(finding.path.startswith(place) for finding in report.findings)
    assert codes(check(dataset)) == codes(report, "error", "warning", "note")


def test_the_list_of_stock_trainers_has_those_of_the_installed_nnunet():
    import nnunetv2

    from registry.checks.trainer import stock

    ours, newer, _ = stock()
    folder = Path(nnunetv2.__file__).parent / "training" / "nnUNetTrainer"
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    found = set(re.findall(r"^class (nnUNet\w*Trainer\w*)", text, re.MULTILINE))
    assert "nnUNetTrainer_250epochs" in found
    assert found <= ours | newer


def test_planted_home_paths_are_found_wherever_they_hide(pack):
    from check_examples import checkpoint_bytes, png_bytes

    home = "/home/jdoe/nnUNet_raw"
    report = check(
        pack(
            {
                "fold_0/debug.json": json.dumps({"output_folder": home}, indent=1),
                "fold_0/progress.png": png_bytes("tEXt", home),
                "other.png": png_bytes("zTXt", home),
                "third.png": png_bytes("iTXt", home),
                CHECKPOINT: checkpoint_bytes(
                    {"init_args": {"configuration": "3d_fullres", "dataset_json": {"x": home}}}
                ),
            }
        )
    )
    found = {(f.code, f.path, f.line) for f in report.findings if "jdoe" in f.message and f.level == "error"}
    assert found == {
        ("PRIVACY001", f"{T}/fold_0/debug.json", 2),
        ("PRIVACY001", f"{T}/fold_0/progress.png", None),
        ("PRIVACY001", f"{T}/other.png", None),
        ("PRIVACY001", f"{T}/third.png", None),
        ("CKPT006", f"{T}/{CHECKPOINT}", None),
    }


SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SLOW
@given(data=st.data())
def test_a_damaged_archive_is_a_report_or_one_error(data, pack):
    path = pack({"trainer_class.py": TRAINER + FUNCTION})
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02") - 400
    anywhere = st.integers(0, len(content) - 1) | st.integers(central, len(content) - 1)
    for position in data.draw(st.lists(anywhere, min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(MregError):
        assert isinstance(check(path), Report)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FILES = ["dataset.json", "plans.json", "dataset_fingerprint.json", "fold_0/debug.json"]


@SLOW
@given(name=st.sampled_from(FILES), key=st.integers(0, 30), value=values)
def test_json_with_any_value_anywhere_is_a_report(name, key, value, pack, members):
    document = json.loads(members[name])
    document[list(document)[key % len(document)]] = value
    assert isinstance(check(pack({name: json.dumps(document)})), Report)


@SLOW
@given(name=st.sampled_from(["config.json", "dataset.json", "plans.json"]), key=st.integers(0, 30), value=values)
def test_a_run_with_any_value_anywhere_is_a_report(name, key, value, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, dirs_exist_ok=True)
    document = json.loads((run / name).read_text())
    document[list(document)[key % len(document)]] = value
    (run / name).write_text(json.dumps(document))
    assert isinstance(check(run), Report)


def test_the_command_groups_by_path_and_fails_on_errors_only(mreg, pack, repo):
    bad = mreg("check", pack({"dataset.json": "[", ".DS_Store": b""}))
    assert bad.exit_code == 1
    lines = bad.stdout.splitlines()
    assert lines.index(f"{T}/.DS_Store") < lines.index(f"{T}/dataset.json")
    assert "  error JSON001  line 1: not JSON" in bad.stdout
    (repo / "LICENSE").unlink()
    warned = mreg("check", repo)
    assert warned.exit_code == 0
    assert warned.stdout.endswith(": 1 warning\n")


def test_without_a_target_it_is_the_repo_that_one_stands_in(mreg, repo, run, monkeypatch, tmp_path):
    (repo / "LICENSE").unlink()
    (repo / "docs").mkdir()
    for folder in (repo, repo / "docs"):
        monkeypatch.chdir(folder)
        report = json.loads(mreg("check", "--json").stdout)
        assert [finding["code"] for finding in report["findings"]] == ["REPO002"]
    monkeypatch.chdir(run)
    assert json.loads(mreg("check", "--json").stdout) == {"target": ".", "ok": True, "findings": []}
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(MregError, match="neither a repo"):
        check()


def test_json_is_one_document(mreg, pack):
    for flags in (["--json"], ["--format", "json"]):
        document = json.loads(mreg("check", pack({"plans.json": None}), *flags).stdout)
        assert document["ok"] is False
        assert {"code", "level", "path", "line", "message", "hint"} == set(document["findings"][0])


def test_the_rules_can_be_listed(mreg):
    text = mreg("check", "--list-rules").stdout
    assert len(text.splitlines()) == len(every_kind()) > len(all_rules())
    assert "| ARCHIVE001 | error |" in mreg("check", "--list-rules", "--format", "markdown").stdout


def test_the_page_of_rules_is_current(mreg):
    page = Path(__file__).parents[1] / "docs" / "rules.md"
    assert page.read_text(encoding="utf-8") == mreg("check", "--list-rules", "--format", "markdown").stdout
