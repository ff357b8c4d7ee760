"""`mreg evaluate` and the cases that it and `mreg predict` work on."""

import json
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run_mreg
from fixtures_dataset import CASES, write_dataset
from fixtures_model import job, write_model

from registry.cases import group_images, labelled_cases
from registry.errors import MregError, NotFoundError
from registry.inference import Target, evaluate, find_target, predict
from trainers.core.metrics import METRICS, case_scores, mean_scores

LABELS = {"background": 0, "gm": 1, "wm": 2}
NAME = "model_seg_gm-wm_t1"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Return three training cases and a test case of the MNI152 template, orientation LPI."""
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory, dataset) -> Path:
    """Return a run of three folds, each with other random weights, outside a repo."""
    run = write_model(
        tmp_path_factory.mktemp("model") / "2d-12345678", labels=LABELS, dimensions=2, orientation="LPI",
        folds=("0", "1", "2"),
    )  # fmt: skip
    config = {
        "recipe": "nnunet", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "2d",
        "settings": {"folds": [0, 1, 2]}, "dataset": {"name": dataset.name}, "repo": NAME,
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(config))
    shutil.copyfile(dataset / "splits_final.json", run / "splits_final.json")
    return run


@pytest.fixture
def run(shared_run, tmp_path) -> Path:
    """Return a copy of the run."""
    return Path(shutil.copytree(shared_run, tmp_path / shared_run.name))


def volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(int)


def test_test_cases_are_measured_with_all_folds_together_and_kept_in_the_run(run, dataset, tmp_path):
    done = run_mreg("evaluate", run, dataset, "--save", "-o", tmp_path / "copy.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation == json.loads((tmp_path / "copy.json").read_text())
    assert {key: evaluation[key] for key in ("dataset", "split", "checkpoint", "folds", "half")} == {
        "dataset": "Dataset702_Tissue",
        "split": "test",
        "checkpoint": "checkpoint_final.pth",
        "folds": [0, 1, 2],
        "half": False,
    }
    expected = case_scores(
        volume(run / "evaluation" / "sub-04_T1w.nii.gz"), volume(dataset / "labelsTs" / "sub-04_T1w.nii.gz"), LABELS,
        (1, 1, 1),
    )  # fmt: skip
    assert evaluation["cases"] == {"sub-04_T1w": expected}
    assert 0 < expected["gm"]["dice"] < 1
    assert evaluation["mean"] == mean_scores(evaluation["cases"])
    assert set(evaluation["mean"]["wm"]) == set(METRICS)
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert header[:3] == ["case", "label", "Dice"]
    assert [row[:2] for row in rows] == [["sub-04_T1w", "gm"], ["sub-04_T1w", "wm"], ["mean", "gm"], ["mean", "wm"]]
    assert rows[0][2] == f"{expected['gm']['dice']:.3f}"


def alone(run: Path, image: Path, out: Path, *folds: str) -> np.ndarray:
    """Predict one image in this process."""
    case = {"name": "a", "images": [str(image)], "output": str(out), "folds": folds}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nnU-Net's dependencies
        from trainers.segmentation import predict as worker

        worker.run(job(run, [case]))
    return volume(out)


def test_validation_cases_are_measured_by_the_fold_that_held_them_out(run, dataset, tmp_path):
    evaluation = evaluate(str(run), dataset, split="val", save=True)
    assert list(evaluation["cases"]) == list(CASES)
    assert evaluation["folds"] == [0, 1, 2]
    image = dataset / "imagesTr" / f"{CASES[1]}_0000.nii.gz"
    by_fold = [alone(run, image, tmp_path / f"{fold}.nii.gz", fold) for fold in "012"]
    kept = volume(run / "evaluation" / f"{CASES[1]}.nii.gz")
    assert [np.array_equal(kept, labels) for labels in by_fold] == [False, True, False]


def test_half_measures_the_rounded_weights(run, dataset, tmp_path):
    import torch

    evaluation = evaluate(str(run), dataset, half=True, save=True)
    assert evaluation["half"] is True
    image = dataset / "imagesTs" / "sub-04_T1w_0000.nii.gz"
    whole = alone(run, image, tmp_path / "whole.nii.gz", *"012")
    for path in run.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["network_weights"] = {k: v.half().float() for k, v in checkpoint["network_weights"].items()}
        torch.save(checkpoint, path)
    rounded = alone(run, image, tmp_path / "rounded.nii.gz", *"012")
    assert np.array_equal(volume(run / "evaluation" / "sub-04_T1w.nii.gz"), rounded)
    assert 0 < np.count_nonzero(rounded != whole) < 0.01 * whole.size


def test_training_cases_are_printed_and_not_kept(run, dataset, tmp_path):
    done = run_mreg("evaluate", run, dataset, "--split", "train", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["cases"]) == list(CASES)
    assert "these are training cases" in done.stderr
    assert not (run / "evaluation.json").exists()


def test_the_evaluation_of_a_run_in_a_repo_reaches_the_model_card(run, dataset, tmp_path, monkeypatch):
    card = pytest.importorskip("registry.card")
    repo = tmp_path / NAME
    (repo / "runs").mkdir(parents=True)
    inside = run.rename(repo / "runs" / run.name)
    (repo / "model.toml").write_text(f'[model]\nname = "{NAME}"\ndescription = "x"\nlicence = "MIT"\n')
    (repo / "README.md").write_text("# Card\n\n<!-- mreg:metrics -->\n<!-- /mreg:metrics -->\n")
    assert card
    evaluation = evaluate(str(inside), dataset)
    assert f"{evaluation['mean']['gm']['dice']:.2f}" in (repo / "README.md").read_text()


def test_a_released_model_is_measured_and_nothing_is_written_beside_it(run, dataset, tmp_path):
    folder = run.rename(tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    for name in ("config.json", "splits_final.json"):
        (folder / name).unlink()
    before = sorted(folder.rglob("*"))
    with pytest.raises(MregError, match="--save keeps the predictions in the run"):
        evaluate(str(folder), dataset, save=True)
    done = run_mreg("evaluate", folder, dataset, "--split", "val", "-o", tmp_path / "e.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "e.json").read_text())
    assert "splits_final.json is taken for the split" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_label_of_other_values_or_another_grid_is_one_error_that_names_it(run, dataset, tmp_path):
    changed = Path(shutil.copytree(dataset, tmp_path / dataset.name))
    path = changed / "labelsTs" / "sub-04_T1w.nii.gz"
    label = volume(path).astype(np.uint8)
    label[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    with pytest.raises(MregError, match=r"labelsTs/sub-04_T1w\.nii\.gz: label values 7 are not in dataset\.json"):
        evaluate(str(run), changed)
    nib.save(nib.Nifti1Image(label[1:], np.eye(4)), path)
    with pytest.raises(MregError, match=r"labelsTs/sub-04_T1w\.nii\.gz: not on the grid of"):
        evaluate(str(run), changed)
    assert not (run / "evaluation.json").exists()


def test_a_dataset_with_other_labels_is_refused(run, dataset, tmp_path):
    changed = Path(shutil.copytree(dataset, tmp_path / dataset.name))
    document = json.loads((changed / "dataset.json").read_text())
    (changed / "dataset.json").write_text(json.dumps({**document, "labels": {"background": 0, "wm": 1, "gm": 2}}))
    with pytest.raises(MregError, match=r"labels = .*, and the model has"):
        evaluate(str(run), changed)


def test_the_split_is_test_where_it_has_labels_and_else_validation(dataset, tmp_path):
    splits = dataset / "splits_final.json"
    name, (case,) = labelled_cases(dataset, None, ["0", "1"], splits)
    assert (name, case.name, case.folds) == ("test", "sub-04_T1w", ("0", "1"))
    untested = Path(shutil.copytree(dataset, tmp_path / dataset.name, ignore=shutil.ignore_patterns("labelsTs")))
    name, cases = labelled_cases(untested, None, ["0", "2"], splits)
    assert name == "val"
    assert [(case.name, case.folds) for case in cases] == [(CASES[0], ("0",)), (CASES[2], ("2",))]
    with pytest.raises(MregError, match="fold all was trained on every case"):
        labelled_cases(untested, None, ["all"], splits)
    with pytest.raises(NotFoundError, match="nobody knows which cases"):
        labelled_cases(untested, None, ["0"], tmp_path / "absent.json")
    (untested / "imagesTr" / f"{CASES[0]}_0000.nii.gz").unlink()
    with pytest.raises(NotFoundError, match=rf"{CASES[0]}_0000\.nii\.gz: no such image, and the case has a label"):
        labelled_cases(untested, "train", ["0"], splits)


def test_a_case_held_out_by_two_folds_is_judged_by_both(dataset, tmp_path):
    splits = [{"train": [CASES[0]], "val": [CASES[1]]}, {"train": [CASES[2]], "val": [CASES[1]]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    _, (case,) = labelled_cases(dataset, "val", ["0", "1"], tmp_path / "splits.json")
    assert case.folds == ("0", "1")


def touch(folder: Path, *names: str) -> list[str]:
    paths = [folder / f"{name}.nii.gz" for name in names]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def named(cases):
    return {case.name: [image.name.removesuffix(".nii.gz") for image in case.images] for case in cases}


def test_images_are_grouped_by_the_numbers_of_their_channels(tmp_path):
    words = touch(tmp_path, "b_0001", "a_0000", "b_0000", "a_0001")
    assert named(group_images(words, 2)) == {"b": ["b_0000", "b_0001"], "a": ["a_0000", "a_0001"]}
    assert named(group_images(touch(tmp_path, "t2_0000", "t1"), 1)) == {"t2": ["t2_0000"], "t1": ["t1"]}
    # With one channel another number than 0000 belongs to the name.
    assert named(group_images(touch(tmp_path, "scan_0001", "scan_0002"), 1)) == {
        "scan_0001": ["scan_0001"],
        "scan_0002": ["scan_0002"],
    }


def test_images_joined_by_commas_are_channels_in_the_order_given(tmp_path):
    second, first = touch(tmp_path, "mt1", "mt0")
    assert named(group_images([f"{first},{second}"], 2)) == {"mt0": ["mt0", "mt1"]}
    (odd,) = touch(tmp_path, "a,b")
    assert named(group_images([odd], 1)) == {"a,b": ["a,b"]}


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (
            ["a_0000"],
            2,
            r"a_0000\.nii\.gz: the model takes 2 channels \(0000 to 0001\), and case a has a_0000\.nii\.gz",
        ),
        (["a_0000", "a_0001"], 1, "the model takes 1 channel .* a_0000.nii.gz, a_0001.nii.gz"),
        (["a_0000", "a_0002"], 2, "takes 2 channels"),
        (["a"], 2, "takes 2 channels"),
        (["a", "a_0000"], 1, "the name of that of"),
    ],
)
def test_a_wrong_number_of_channels_is_one_error(tmp_path, names, channels, message):
    with pytest.raises(MregError, match=message):
        group_images(touch(tmp_path, *names), channels)


def test_what_is_no_image_is_said_so(tmp_path):
    for word, message in ((tmp_path, "a folder"), (tmp_path / "absent.nii.gz", "no such image")):
        with pytest.raises(MregError, match=message):
            group_images([str(word)], 1)
    (tmp_path / "a.png").touch()
    with pytest.raises(MregError, match="not a NIfTI file"):
        group_images([str(tmp_path / "a.png")], 1)


def test_a_result_never_replaces_its_image(run, tmp_path, dataset):
    image = Path(shutil.copyfile(dataset / "imagesTs" / "sub-04_T1w_0000.nii.gz", tmp_path / "t1.nii.gz"))
    before = image.read_bytes()
    with pytest.raises(MregError, match="the result would replace the image"):
        predict(str(run), [str(image)], tmp_path)
    assert image.read_bytes() == before


def test_folds_are_the_finished_ones_and_all_only_where_it_is_alone(tmp_path):
    for name in ("fold_10", "fold_2", "fold_all"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint_final.pth").touch()
    (tmp_path / "fold_3").mkdir()
    target = Target(folder=tmp_path)
    assert target.folds() == ["2", "10"]
    assert target.folds(["all"]) == ["all"]
    with pytest.raises(NotFoundError, match=r"fold 3 has no checkpoint_final\.pth"):
        target.folds(["3"])


def test_a_model_is_found_by_run_repo_and_unpacked_archive(repo_with_run, tmp_path, monkeypatch):
    run = repo_with_run / "runs" / "3d_fullres-1a2b3c4d"
    assert find_target(str(run)).run is not None
    assert find_target(str(repo_with_run)).folder == run
    unpacked = tmp_path / "unpacked" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(run, unpacked, ignore=shutil.ignore_patterns("config.json"))
    assert find_target(str(unpacked.parent)) == find_target(str(unpacked)) == Target(folder=unpacked)
    monkeypatch.chdir(repo_with_run.parent)
    with pytest.raises(MregError):  # the released model of that name, not the folder that lies here
        find_target(repo_with_run.name, f"dir:{tmp_path / 'registry'}")
