"""A lesion model from its repo to a released one that is fetched and asked, on real images."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run_mreg
from lesion_data import take_cases, write_training

MODEL, DATASET, TAG = "model_seg_lesion_t2", "Dataset510_Lesions", "r20261121"
CASES = ("sub-errsm11_chunk-2_T2w", "sub-errsm18_chunk-2_T2w", "sub-errsm21_chunk-3_T2w")
TRAIN = """\
dataset = "data/raw/Dataset510_Lesions"

[train]
recipe = "lesion"
window = 32
margin = 4
patch = [16, 32, 32]
base = 2
depth = 2
epochs = 1
iterations = 3
sheets = 1
device = "cpu"
checkpoint_minutes = 0
"""

CORD_TRAIN = """\
dataset = "data/raw/Dataset501_SpinalCordT2w"

[train]
configuration = "2d"
patch_size = [32, 32]
features = [8, 16, 16]
epochs = 4
iterations = 30
val_iterations = 1
batch_size = 4
checkpoint_minutes = 60
device = "cpu"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lesion")


@pytest.fixture(scope="module")
def environment(root: Path) -> dict[str, str]:
    (root / "registry").mkdir()
    return {"MREG_REGISTRY": f"dir:{root / 'registry'}", "MREG_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def repo(root: Path, environment: dict[str, str], test_data: Path) -> Path:
    """Return a new model's repo with three real cases and a trained fold."""
    done = run_mreg("new", MODEL, "--recipe", "lesion", "--dir", root, cwd=root, **environment)
    assert done.returncode == 0, done.stderr
    repo, source = root / MODEL, test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
    dataset = repo / "data" / "raw" / DATASET
    take_cases(source, dataset, CASES)
    write_training(repo, TRAIN)
    done = run_mreg("train", "--json", cwd=repo, **environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["complete"]
    assert answer["trained"] == [0]
    return repo


def test_from_training_to_a_released_model_that_gives_the_same(repo, environment, tmp_path) -> None:
    run = next((repo / "runs").iterdir())
    dataset = repo / "data" / "raw" / DATASET
    done = run_mreg("evaluate", run, dataset, "-o", tmp_path / "found.json", cwd=repo, **environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[-4:] == ["right", "F1", "false", "ml"]
    assert [line.split()[0] for line in lines[1:]] == [CASES[2], "mean"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads((run / "evaluation.json").read_text())
    assert found["threshold"] == json.loads((run / "plans.json").read_text())["folds"]["0"]["threshold"]
    assert found["summary"]["reference_ml"]["median"] == pytest.approx(0.114)
    assert list(found["cases"]) == [CASES[2]]
    scores = found["cases"][CASES[2]]["lesion"]
    assert scores["reference_lesions"] == 1
    assert scores["reference_ml"] == pytest.approx(0.114)
    for name in ("lesion_sensitivity", "lesion_f1"):
        assert found["mean"]["lesion"][name] == scores[name]
    card = (repo / "README.md").read_text()
    assert "| label | lesion sensitivity |" in card
    assert "](figures/predictions.png)" in card
    assert (repo / "figures" / "predictions.png").is_file()

    image, label = dataset / "imagesTr" / f"{CASES[1]}_0000.nii.gz", dataset / "labelsTr" / f"{CASES[1]}.nii.gz"
    arguments = [image, "--cord", label, "-o"]
    done = run_mreg("predict", run, *arguments, tmp_path / "run", cwd=repo, **environment)
    assert done.returncode == 0, done.stderr
    done = run_mreg("release", "--tag", TAG, "--publish-with", "direct", cwd=repo, **environment)
    assert done.returncode == 0, done.stderr
    assert "Lesion sensitivity" in run_mreg("show", f"{MODEL}@{TAG}", cwd=tmp_path, **environment).stdout
    archive = next((repo / "dist").rglob("*.zip"))
    with zipfile.ZipFile(archive) as file:
        assert "LesionTrainer__LesionPlans__3d/predictions.png" in file.namelist()
    reference = json.loads((archive.parent / "mreg-release.json").read_text())["models"][0]["reference"]
    assert reference["image"]["kind"] == "mni152"
    done = run_mreg("check", archive, "--run", "--json", cwd=repo, **environment)
    found = {finding["code"]: finding["message"] for finding in json.loads(done.stdout)["findings"]}
    assert "agreement with the reference 1.0000, same bytes" in found["SMOKE006"]
    assert not found.keys() & {"SMOKE001", "SMOKE002", "SMOKE003", "SMOKE005"}
    done = run_mreg("predict", f"{MODEL}@{TAG}", *arguments, tmp_path / "released", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    first, second = (nib.load(tmp_path / folder / f"{CASES[1]}.nii.gz") for folder in ("run", "released"))
    assert np.array_equal(first.affine, nib.load(image).affine)
    assert set(np.unique(first.dataobj)) <= {0, 2}  # the lesion's value in dataset.json
    assert np.array_equal(first.dataobj, second.dataobj)


def test_what_the_window_needs_is_asked_for(repo, environment, tmp_path) -> None:
    run = next((repo / "runs").iterdir())
    images = [repo / "data" / "raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz" for case in CASES[:2]]
    for arguments, words in (
        (images[:1], ("no cord mask and no centreline", "--cord-model NAME@TAG")),
        ([*images, "--cord", images[0]], ("one cord for several images",)),
        ([images[0], "--cord", tmp_path / "gone.csv"], ("gone.csv: no such file",)),
        ([images[0], "--cord", tmp_path], ("no cord of case sub-errsm11_chunk-2_T2w",)),
        ([images[0], "--cord", images[0], "--cord-model", "x@y"], ("name the cord twice",)),
        ([images[0], "--cord-model", str(run)], ("a lesion model, not one that finds the cord",)),
    ):
        done = run_mreg("predict", run, *arguments, "-o", tmp_path / "out", cwd=repo, **environment)
        assert done.returncode == 1
        for word in words:
            assert word in done.stderr
    assert not (tmp_path / "out").exists()
    done = run_mreg("train", "--set", "lesion_label=tumour", cwd=repo, **environment)
    assert "no label 'tumour'; there are: background, sc, lesion" in done.stderr
    done = run_mreg("train", "--set", "cord_label=cord", cwd=repo, **environment)
    assert "--set cord_model=NAME@TAG" in done.stderr


@pytest.fixture(scope="module")
def cord_model(root: Path, environment: dict[str, str], test_data: Path) -> str:
    """Return the ref of a cord segmentation that was trained for seconds, and released."""
    name, source = "model_seg_sc_t2", test_data / "nnUNet_raw" / "Dataset501_SpinalCordT2w"
    done = run_mreg("new", name, "--dir", root, cwd=root, **environment)
    assert done.returncode == 0, done.stderr
    repo = root / name
    dataset = repo / "data" / "raw" / source.name
    take_cases(source, dataset, CASES)
    write_training(repo, CORD_TRAIN)
    for command in (("train",), ("release", "--tag", TAG, "--publish-with", "direct")):
        done = run_mreg(*command, cwd=repo, **environment)
        assert done.returncode == 0, done.stderr
    return f"{name}@{TAG}"


@pytest.mark.long
def test_a_released_cord_model_says_where_the_cord_is(repo, environment, cord_model, tmp_path) -> None:
    """It is fetched, finds the cords of the training, and is asked again by whoever predicts."""
    by_masks = next((repo / "runs").iterdir())
    done = run_mreg("train", "--json", "--set", f"cord_model={cord_model}", cwd=repo, **environment)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    assert run != by_masks
    sources = {}
    for path in sorted((repo / "data" / "preprocessed").rglob("cases-*/*.json")):
        line = json.loads(path.read_text())["centreline"]
        sources.setdefault(path.stem, []).append(np.asarray(line["points_mm"]))
    for case, lines in sources.items():  # cut twice, around its mask and around what the model found
        assert len(lines) == 2, case
        gaps = np.linalg.norm(lines[0][:, None] - lines[1][None], axis=2).min(axis=1)
        assert 0 < np.median(gaps) < 4, case
    image = repo / "data" / "raw" / DATASET / "imagesTr" / f"{CASES[1]}_0000.nii.gz"
    for model, flags, folder in ((run, (), "asked"), (by_masks, ("--cord-model", cord_model), "told")):
        done = run_mreg("predict", model, image, "-o", tmp_path / folder, *flags, cwd=repo, **environment)
        assert done.returncode == 0, done.stderr
        assert nib.load(tmp_path / folder / f"{CASES[1]}.nii.gz").shape == nib.load(image).shape
    done = run_mreg("predict", cord_model, image, "-o", tmp_path, "--cord", image, cwd=repo, **environment)
    assert "does not look around a cord" in done.stderr
