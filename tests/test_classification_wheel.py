"""A classifier as a Python package: in an environment of what it pins it answers as the command and the library do."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import SimpleITK
import torch
from packaging.requirements import Requirement

from registry import classification, wheels
from registry.classification_import import import_classification
from registry.classifier import RECIPE
from registry.code_closure import closure
from registry.model_toml import find_repo
from registry.packaging import package
from trainers.catalog import RECIPES
from trainers.classification import predict as prediction
from trainers.classification import train as training
from trainers.classification.predict import predict
from trainers.core import environment

MODEL, TAG = "model_classif_sc_agnostic", "r20260131"
TASK = "auc23/raw/nnUNet_raw_data/Task520_SpineContrastLesion"
MODEL_TOML = f"""\
[model]
name = "{MODEL}"
description = "Contrast and lesion \\"of\\" the cord"
licence = "CC0-1.0"
[data]
dataset = "data/raw/Task601_ContrastLesion"
[train]
recipe = "{RECIPE}"
folds = [0, 1]
num_folds = 2
epochs = 1
iterations = 2
batch_size = 2
width = 0.125
max_voxels = 4096
device = "cpu"
"""
# What a program may not do in the environment: ask the network, or find mreg.
CHECKED = """\
import json, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
from model_classif_sc_agnostic import ARTIFACT, predict
for name in ("registry", "trainers", "nnunetv2", "blosc2", "sklearn"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is there")
print(json.dumps([predict(ARTIFACT, [image], sys.argv[-1]) for image in sys.argv[1:-1]]))
"""


@pytest.fixture(scope="module")
def repo(test_data, tmp_path_factory):
    """Return a repo with a run of two folds on eight real crops of the cord, imported from a table."""
    root = tmp_path_factory.mktemp("wheel") / MODEL
    root.mkdir()
    (root / "model.toml").write_text(MODEL_TOML)
    task = test_data / TASK
    lines = ["case,image,mask,Contrast,Lesion"]
    for number, entry in enumerate(json.loads((task / "dataset.json").read_text())["training"][:8]):
        name = entry["image"].rpartition("/")[2].removesuffix(".nii.gz")
        image, mask = task / "imagesTr" / f"{name}_0000.nii.gz", task / "labelsTr" / f"{name}.nii.gz"
        lines.append(f"{name},{image},{mask},{('T1w', 'T2w', 'T2star')[number % 3]},{number % 2}")
    (root / "cases.csv").write_text("\n".join(lines))
    import_classification(
        root / "cases.csv",
        root / "data" / "raw",
        number=601,
        classify={"Contrast": ("T1w", "T2w", "T2star"), "Lesion": ()},
    )
    found = find_repo(root)
    planned = classification.plan(found, RECIPES[RECIPE], {})
    with pytest.MonkeyPatch.context() as patch:
        for module in (environment, training):
            patch.setattr(module, "cpu_count", lambda: 1)
        answer = training.run(classification.job(found, planned, gpus=1, max_minutes=None))
    assert answer["trained"] == [0, 1]
    return root


@pytest.fixture(scope="module")
def made(repo):
    """Return the package and the wheel of the run."""
    run = next((repo / "runs").iterdir())
    wheels.require_classifier(run)
    packed = package(run, tag=TAG, reference=False)
    return packed, wheels.make_wheel(packed, container=True)


@pytest.fixture(scope="module")
def python(made, tmp_path_factory):
    """Return the interpreter of an environment with the wheel, what it pins and what that needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    site = next((folder / "venv" / "lib").iterdir()) / "site-packages"
    _, wheel = made
    install = [sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python", "install", "--quiet"]
    subprocess.run([*install, "--no-index", "--no-deps", "--no-compile", wheel.path], check=True)
    (about,) = site.glob("*.dist-info")
    needed = metadata.Distribution.at(about).requires
    assert tuple(needed) == wheel.requirements
    for distribution in _with_what_they_need(needed):
        for name in {Path(str(file)).parts[0] for file in distribution.files}:
            source, target = Path(distribution.locate_file(name)), site / name
            if name not in ("..", "__pycache__") and not target.exists():
                target.symlink_to(source)
    return folder / "venv" / "bin" / "python"


def _with_what_they_need(requirements):
    """Return the installed distributions, and those that they need; a pin that is not met fails."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.name.lower() in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        found[requirement.name.lower()] = distribution
        waiting += [Requirement(text) for text in distribution.requires or ()]
    return list(found.values())


def files(repo, tmp_path):
    """Return an image as NIfTI and as MetaImage, and its mask."""
    task = repo / "data" / "raw" / "Task601_ContrastLesion"
    mask = min((task / "labelsTr").iterdir())
    image = task / "imagesTr" / mask.name.replace(".nii.gz", "_0000.nii.gz")
    meta = tmp_path / "scan.mha"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(image)), str(meta))
    return str(image), str(meta), str(mask)


def call(python, *arguments, cwd):
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_command_library_wheel_and_container_give_identical_numbers(repo, made, python, tmp_path, mreg, monkeypatch):
    image, meta, mask = files(repo, tmp_path)
    _, wheel = made
    torch.set_num_threads(1)
    run = next((repo / "runs").iterdir())
    answer = predict(str(run), [image], mask)
    assert len(answer[0]) == 3
    assert sum(answer[0]) == pytest.approx(1)
    assert 0 < answer[1] < 1
    assert json.loads(json.dumps(answer)) == answer
    assert predict(str(run), [meta], mask) == answer

    found = json.loads(call(python, "-c", CHECKED, image, meta, mask, cwd=tmp_path))
    assert found == [answer, answer]

    monkeypatch.setattr(prediction, "cpu_count", lambda: 1)
    monkeypatch.setattr(classification.workers, "call", lambda _, job: prediction.run(job))
    done = mreg("predict", run, image, "-o", tmp_path / "out", "--mask", mask, "--device", "cpu")
    assert done.exit_code == 0, done.output
    told = json.loads(Path(done.stdout.strip()).read_text())
    assert list(told["Contrast"]["probabilities"].values()) == answer[0]
    assert told["Lesion"]["probabilities"]["1"] == answer[1]

    config = json.loads((wheel.container / "task_config.json").read_text())
    assert config == {
        "input_interfaces": ["mri"],
        "roi_segmentation_interface": "roi-segmentation",
        "output_interfaces": ["contrast", "lesion"],
    }
    for name, file in (("mri", meta), ("roi-segmentation", mask)):
        (tmp_path / "input" / "images" / name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "input" / "images" / name)
    call(python, wheel.container / "process.py", "--input", "input", "--output", "output", cwd=tmp_path)
    assert [json.loads((tmp_path / "output" / f"{name}.json").read_text()) for name in ("contrast", "lesion")] == answer


def test_the_wheel_holds_the_archives_model_and_says_what_it_is(made, repo):
    packed, wheel = made
    assert wheel.path.name == f"{MODEL}-20260131-py3-none-any.whl"
    assert wheel.path.parent == packed.archive.parent
    with zipfile.ZipFile(wheel.path) as ours, zipfile.ZipFile(packed.archive) as theirs:
        names = set(ours.namelist())
        shipped = {name.partition("/model/")[2]: ours.read(name) for name in names if "/model/" in name}
        assert set(shipped) == {"plans.json", "dataset.json", *(f"fold_{n}/checkpoint_final.pth" for n in range(2))}
        for name in theirs.namelist():
            assert shipped.get(name.partition("/")[2], theirs.read(name)) == theirs.read(name)
        about = ours.read(f"{MODEL}-20260131.dist-info/METADATA").decode()
        code = "".join(ours.read(name).decode() for name in names if name.endswith(".py"))
    assert 'Summary: Contrast and lesion "of" the cord' in about
    assert "The model's licence: CC0-1.0." in about
    assert "1. Contrast: a list with the probabilities of T1w, T2w, T2star" in about
    assert "LICENSE-mreg" in "".join(names)
    assert "from trainers" not in code
    assert all(name.startswith((f"{MODEL}/", f"{MODEL}-20260131.dist-info/")) for name in names)
    assert str(repo.parent) not in about + code
    again = wheels.make_wheel(packed)
    assert again.sha256 == wheel.sha256
    assert again.container is None


def test_the_container_has_what_its_dockerfile_copies_and_keeps_the_names_of_the_platform(made, repo, mreg):
    _, wheel = made
    dockerfile = (wheel.container / "Dockerfile").read_text()
    copied = [word for line in dockerfile.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert set(copied) | {"Dockerfile", "README.md"} == {path.name for path in wheel.container.iterdir()}
    assert (wheel.container / "requirements.txt").read_text().split() == list(wheel.requirements)
    (wheel.container / "task_config.json").write_text("{}")
    run = next((repo / "runs").iterdir())
    done = mreg("package", run, "--tag", TAG, "--container", "--no-reference")
    assert done.exit_code == 0, done.output
    assert done.stdout.split()[1:] == [str(wheel.path), str(wheel.container)]
    assert "MB, needs nibabel==" in done.stderr
    assert (wheel.container / "task_config.json").read_text() == "{}"


def test_only_classifiers_become_wheels(tmp_path, mreg):
    (tmp_path / "plans.json").write_text('{"plans_name": "nnUNetPlans"}')
    done = mreg("package", tmp_path, "--wheel", "--tag", TAG)
    assert done.exit_code == 1
    assert "not a classifier" in done.stderr


def test_an_unpacked_archive_is_an_artifact(made, repo, tmp_path):
    packed, _ = made
    with zipfile.ZipFile(packed.archive) as archive:
        archive.extractall(tmp_path)
    image, _, mask = files(repo, tmp_path)
    assert predict(str(tmp_path), [image], mask) == predict(str(next((repo / "runs").iterdir())), [image], mask)


def test_what_an_encoder_needs_travels_with_it():
    small, _ = closure([wheels.ENTRY])
    large, foreign = closure([wheels.ENTRY, *wheels.ENCODERS])
    assert "trainers/nets/i3d.py" in small
    assert "trainers/nets/primus.py" not in small
    assert {"trainers/nets/primus.py", "trainers/nets/resenc.py"} <= set(large)
    assert "dynamic_network_architectures" in foreign
