"""Each rule of `mreg check` with the bad example of its own, which is found where it is and as nothing else."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
from check_examples import change, edited, examples, zipped
from fixtures_dataset import write_dataset
from fixtures_encoder import FOLDER as ENCODER_FOLDER
from fixtures_run import NAME, TRAINER_FOLDER

from registry import differences, labels
from registry.checks import check, every_kind
from registry.findings import Finding, Report
from registry.scaffold_files import plan, render
from registry.schemas import validate

EXAMPLES = examples()
RUN = "runs/3d_fullres-1a2b3c4d"
HERE = Path(__file__).parent
ENCODER = "model_pretrain_sc_t2_resencl"
FOLDERS = {
    "archive": "files", "repo": NAME, "run": NAME, "dataset": "Dataset702_Tissue", "encoder": "files",
    "encoder_repo": ENCODER,
}  # fmt: skip
TRAINERS = {"archive": TRAINER_FOLDER, "encoder": ENCODER_FOLDER}


@pytest.fixture(scope="session")
def good(tiny_package, tiny_encoder_package, tiny_run, tmp_path_factory):
    """Return one folder with a good target of each kind: files of the archive, repo, run in a repo, dataset."""
    root = tmp_path_factory.mktemp("good")
    for kind, package in (("archive", tiny_package), ("encoder", tiny_encoder_package)):
        with zipfile.ZipFile(package.archive) as archive:
            archive.extractall(root / "unpacked")
        (root / "unpacked" / TRAINERS[kind]).rename(root / kind)
    for kind, name, recipe in (("repo", NAME, "nnunet"), ("encoder_repo", ENCODER, "pretrain")):
        for path, text in render(plan(name, recipe=recipe, licence="MIT", authors=("Ada Lovelace",))).items():
            (root / kind / path).parent.mkdir(parents=True, exist_ok=True)
            (root / kind / path).write_text(text)
        (root / kind / ".git").mkdir()
    shutil.copytree(tiny_run.parents[1], root / "run")
    write_dataset(root).rename(root / "dataset")
    return root


@pytest.fixture
def judged(good, tmp_path):
    """Build the target of an example and check it: report, and the folder where its files can be read."""

    def built(place: str, example: dict) -> Path:
        """Build an archive in a folder of its own."""
        files = tmp_path / place / "files"
        shutil.copytree(good / "archive", files)
        change(files, example, place)
        about = {
            key: re.sub("/T$", f"/{TRAINER_FOLDER}", v) if key == "folder" else v
            for key, v in example.get("archive", {}).items()
        }
        return zipped(files, tmp_path / place, {**example, "archive": about}, TRAINER_FOLDER)

    def judge(base: str, example: dict, name: str) -> tuple[Report, Path]:
        if base == "document":
            text = edited({}, example["document"])
            (tmp_path / "document.json").write_text(text)
            found = validate(example["schema"], example["document"], "document.json", text)
            return Report(target=name, findings=tuple(found)), tmp_path
        if base == "pair":
            old = built("before", example.get("before", {}))
            found = differences.findings(built("after", example), str(old), None)
            return Report(target=name, findings=tuple(found)), tmp_path / "after" / "files"
        folder = tmp_path / example.get("folder", FOLDERS[base])
        shutil.copytree(good / base, folder)
        place = folder / RUN if base == "run" else folder
        if "dataset" in example:  # that a repo's data are made of
            shutil.copytree(good / "dataset", folder / example["dataset"])
        change(place, example, name)
        if base in TRAINERS:
            return check(zipped(folder, tmp_path, example, TRAINERS[base])), folder
        return check(place), place

    return judge


def line_of(folder: Path, finding: Finding) -> str:
    path = folder / finding.path
    if not path.exists():
        path = folder / finding.path.partition("/")[2]  # without the trainer folder of an archive
    return path.read_text().splitlines()[finding.line - 1] if finding.line else ""


@pytest.mark.parametrize("base", FOLDERS)
def test_a_good_target_has_no_finding(base, judged):
    report, _ = judged(base, {}, "good")
    assert report.findings == ()


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example["base"] != "test"])
def test_a_bad_example_is_found_at_its_place_and_as_nothing_else(name, judged):
    example, code = EXAMPLES[name], name.partition("-")[0]
    report, folder = judged(example["base"], example, name)
    assert {finding.code for finding in report.findings} == {code, *example.get("also", [])}
    wanted = example["finding"]
    path = re.sub("^T/", f"{TRAINERS.get(example['base'], TRAINER_FOLDER)}/", wanted["path"])
    places = [finding for finding in report.findings if finding.code == code and finding.path == path]
    assert places, [finding.path for finding in report.findings]
    assert any(wanted.get("line", "") in line_of(folder, finding) for finding in places)
    assert all(finding.line for finding in places) or "line" not in wanted
    assert all(finding.message for finding in places)


def test_every_rule_has_a_bad_example():
    assert {name.partition("-")[0] for name in EXAMPLES} == {kind.code for kind in every_kind()}


def test_every_code_of_the_labels_is_listed():
    text = Path(labels.__file__).read_text()
    assert set(re.findall(r'"((?:LABEL|CHANNEL)\d{3})", (?:level|")', text)) | {"LABEL016"} == set(labels.KINDS)


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example["base"] == "test"])
def test_an_example_that_is_a_test_of_its_own_is_there(name):
    file, _, function = EXAMPLES[name]["test"].partition("::")
    text = (HERE / file).read_text()
    assert f"def {function}(" in text
    assert name.partition("-")[0] in text
