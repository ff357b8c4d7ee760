"""The main job as a newcomer runs it, and what stock nnU-Net makes of its archive."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run_mreg

from registry import demo, demo_data, demo_picture
from registry.errors import MregError

# Stock nnU-Net in a process of its own: the model folder and images that were turned to its orientation.
SAME, SAME_DICE = 2e-5, 0.9999  # of an image's voxels, and of each tissue
STOCK = """
import sys
from pathlib import Path
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
model, images, out = sys.argv[1:4]
torch.load(Path(model, "fold_0", "checkpoint_final.pth"), weights_only=True)
predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(model, use_folds=None, checkpoint_name="checkpoint_final.pth")
files = [[str(p)] for p in sorted(Path(images).glob("*.nii.gz"))]
predictor.predict_from_files_sequential(files, out, save_probabilities=False, overwrite=True)
"""


def stock_predictions(model: Path, images: Path, out: Path) -> None:
    out.mkdir()
    subprocess.run([sys.executable, "-c", STOCK, str(model), str(images), str(out)], check=True, cwd=out)


@pytest.mark.long
def test_the_demo_reaches_its_dice_and_stock_nnunet_agrees_with_it(tmp_path: Path) -> None:
    done = run_mreg("demo", "--dir", "work", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"new", "import", "train", "evaluate", "check", "release", "fetch", "predict", "picture"} <= {
        stage["name"] for stage in result["stages"]
    }
    assert all(stage["seconds"] >= 0 for stage in result["stages"])
    assert len(result["dice"]) == len(demo_data.TEST_SLABS)
    for tissue in ("gm", "wm"):
        assert np.mean([case[tissue] for case in result["dice"].values()]) >= 0.80, result["dice"]
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")

    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(result["archive"]) as archive:
        archive.extractall(unpacked)
    (model,) = unpacked.iterdir()
    assert model.name == "nnUNetTrainer__nnUNetPlans__2d"
    images = next((tmp_path / "work" / "model_seg_gm-wm_t1" / "data" / "raw").glob("*/imagesTs"))
    stock_predictions(model, images, tmp_path / "stock")
    ours = sorted((tmp_path / "work" / "predictions").glob("*.nii.gz"))
    assert len(ours) == len(demo_data.TEST_SLABS)
    for path in ours:
        theirs = np.asarray(nib.load(tmp_path / "stock" / path.name).dataobj)
        mine = np.asarray(nib.load(path).dataobj)
        assert (mine != theirs).mean() < SAME, path.name  # sums in another order: a voxel on the border of two tissues
        for value in (1, 2):
            both = ((mine == value) & (theirs == value)).sum()
            assert 2 * both / ((mine == value).sum() + (theirs == value).sum()) >= SAME_DICE, (path.name, value)

    again = run_mreg("demo", "--dir", "work", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["dice"] == result["dice"]


def test_a_folder_of_something_else_is_not_touched(mreg, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = mreg("demo", "--dir", tmp_path)
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("cache", "config")] == ["mine.txt"]


def test_the_slabs_do_not_share_a_slice(tmp_path: Path) -> None:
    tests = demo_data.write_bids(tmp_path / "bids")
    assert tests == demo_data.write_bids(tmp_path / "bids")
    spans = []
    for path in sorted((tmp_path / "bids").glob("sub-*/anat/*.nii.gz")):
        image = nib.load(path)
        start = image.affine[2, 3]
        spans.append((start, start + image.shape[2]))
    assert all(end + demo_data.GAP <= start for (_, end), (start, _) in pairwise(spans))


def test_a_task_is_read_off_a_bids_tree(test_data: Path, tmp_path: Path) -> None:
    task = demo._bids_task(test_data / "bids_sc")
    assert (task.name, task.contrast, task.labels) == ("model_seg_sc_t2", "T2w", {"sc": "SC_seg"})
    assert task.test_subjects == ("sub-errsm30",)
    with pytest.raises(MregError):
        demo._bids_task(tmp_path)


def test_the_table_shows_cases_and_means() -> None:
    table = demo.dice_table({"a": {"gm": 0.5, "wm": None}, "b": {"gm": 0.7, "wm": 0.9}})
    assert table.splitlines()[-1].split() == ["mean", "0.600", "0.900"]
    assert table.splitlines()[1].split() == ["a", "0.500", "-"]


def test_the_picture_says_the_dice_the_place_and_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thick slices that are stored from right to left: the panels stand as the person does, whatever the file."""
    truth = np.zeros((30, 20, 6), np.uint8)
    truth[4:12, 5:15, 1:5] = 1
    found = truth.copy()
    found[4:8] = 0  # half of it: a Dice of 2/3
    affine = np.diag([-2.0, 1.0, 5.0, 1.0])
    for folder, volume, name in (("i", truth * 100, "a_0000"), ("l", truth, "a"), ("p", found, "a")):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(volume.astype(np.uint8), affine), tmp_path / folder / f"{name}.nii.gz")
    figures = []
    monkeypatch.setattr("matplotlib.pyplot.close", figures.append)
    image = tmp_path / "i" / "a_0000.nii.gz"
    picture = demo_picture.draw(image, tmp_path / "l", tmp_path / "p", ["sc", "gm"], tmp_path / "a.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert figure.get_suptitle() == "a, not seen in training: Dice sc 0.67, gm not defined"
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["L", "R"]
    assert (first.get_ylabel(), first.get_aspect()) == ("z = 5 mm", 0.5)
    assert figure.axes[6].texts[-1].get_text() == "10 mm"
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert shown.shape == (20, 24)  # within the margin
    assert shown[:, -5:].any()  # the file's first columns are the person's right
    assert not shown[:, :10].any()
