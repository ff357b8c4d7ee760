"""Stock nnU-Net, its own trainer with its own loaders and processes, on the folder that our preprocessing wrote."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_preprocess import cache as cache_folder
from test_preprocess import copy_of, run

from trainers.core.files import read_json, write_json

LIMIT = 240  # seconds
cache = cache_folder  # a fixture
# As `nnUNetv2_train 501 3d_fullres 0 -device cpu` does it, with a trainer of one short epoch in place of a thousand.
SCRIPT = """\
import sys
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import load_json
from pathlib import Path

if __name__ == "__main__":  # its validation spawns processes
    folder, configuration = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    plans, dataset = (load_json(str(folder / name)) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = nnUNetTrainer({**plans, "continue_training": False}, configuration, 0, dataset, torch.device("cpu"))
    assert type(trainer) is nnUNetTrainer
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 1
    trainer.initialize()
    trainer.run_training()
    trainer.perform_actual_validation()
    print(trainer.output_folder)
"""


def small(plan: dict, patch: tuple[int, ...]) -> dict:
    """Return a configuration's plan for a network of seconds."""
    kwargs = dict(plan["architecture"]["arch_kwargs"])
    for key in ("kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        kwargs[key] = kwargs[key][: 2 if key == "n_conv_per_stage_decoder" else 3]
    kwargs |= {"n_stages": 3, "features_per_stage": [4, 8, 8]}
    return {
        **plan,
        "patch_size": patch,
        "batch_size": 2,
        "architecture": {**plan["architecture"], "arch_kwargs": kwargs},
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "configuration", "patch"),
    [("Dataset501_SpinalCordT2w", "3d_fullres", (24, 24, 24)), ("Dataset503_GrayMatterT2star2D", "2d", (40, 40))],
)
def test_stock_nnunet_trains_and_validates_from_our_folder(
    test_data: Path, cache: Path, tmp_path: Path, name: str, configuration: str, patch: tuple[int, ...]
) -> None:
    dataset = copy_of(test_data, name, tmp_path / "raw", 3)
    folder = run(dataset, cache, configuration).folder
    plans = read_json(folder / "nnUNetPlans.json")
    plans["configurations"][configuration] = small(plans["configurations"][configuration], patch)
    write_json(folder / "nnUNetPlans.json", plans)
    cases = sorted(
        path.stem for path in (folder / plans["configurations"][configuration]["data_identifier"]).glob("*.pkl")
    )
    write_json(folder / "splits_final.json", [{"train": cases[1:], "val": cases[:1]}])
    (tmp_path / "stock.py").write_text(SCRIPT)
    # Its loaders in line and one process for its validation; its pools wait for ever when a process of theirs dies.
    environment = {**os.environ, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    environment["nnUNet_results"] = str(tmp_path / "results")
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "stock.py"), str(folder), configuration],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, said
    out = Path(said.splitlines()[-1])
    assert (out / "checkpoint_final.pth").is_file()
    summary = json.loads((out / "validation" / "summary.json").read_text())
    assert [Path(case["reference_file"]).name for case in summary["metric_per_case"]] == [f"{cases[0]}.nii.gz"]
    assert 0 <= summary["foreground_mean"]["Dice"] <= 1 or math.isnan(summary["foreground_mean"]["Dice"])
