"""`mreg train` with nnU-Net when it is killed again and again, and when the disk is full."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command import COMMAND, run_mreg

from trainers.core import job

FULL_DISK = """\
import errno
import os
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_fullDisk(nnUNetTrainer):
    def save_checkpoint(self, filename):
        super().save_checkpoint(filename)
        if self.current_epoch and Path({flag!r}).exists():
            os.truncate(filename, 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), filename)
"""


@pytest.fixture
def repo(trained_repo: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained repo, preprocessed data included, in which fold 0 is to be trained."""
    copy = Path(shutil.copytree(trained_repo, tmp_path / trained_repo.name, symlinks=True))
    shutil.rmtree(the_run(copy) / "fold_0")
    return copy


def the_run(repo: Path) -> Path:
    (run,) = (p for p in (repo / "runs").iterdir() if (p / "config.json").is_file())
    return run


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "fold_0" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_killed_at_ten_random_moments_it_ends_as_if_nothing_had_happened(repo: Path, trained_repo: Path) -> None:
    moments, fold, killed = random.Random(5), the_run(repo) / "fold_0", 0  # noqa: S311 - moments, not secrets
    for _ in range(10):
        before = len(list(fold.glob("training_log_*")))
        process = subprocess.Popen(
            [*COMMAND, "train"], cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while len(list(fold.glob("training_log_*"))) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        killed += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed >= 5
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert losses(the_run(repo)) == losses(the_run(trained_repo))
    assert (fold / "validation" / "summary.json").is_file()


def test_a_full_disk_is_said_and_the_training_goes_on_from_the_checkpoint_before(repo: Path, tmp_path: Path) -> None:
    flag = tmp_path / "full"
    flag.touch()
    shutil.rmtree(the_run(repo))
    (repo / "trainer_class.py").write_text(FULL_DISK.format(flag=str(flag)))
    asked = ("train", "--set", "trainer=nnUNetTrainer_fullDisk")
    failed = run_mreg(*asked, cwd=repo)
    assert failed.returncode == 1
    assert "the disk is full, the checkpoint was not written" in failed.stderr
    assert "make room and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    fold = the_run(repo) / "fold_0"
    assert [path.name for path in fold.glob("*.pth*")] == ["checkpoint_latest.pth"]
    assert torch.load(fold / "checkpoint_latest.pth", weights_only=True)["current_epoch"] == 1
    flag.unlink()
    done = run_mreg(*asked, cwd=repo)
    assert done.returncode == 0, done.stderr
    assert "continues at epoch 2 of 3" in done.stderr
    assert len(losses(the_run(repo))) == 3


def test_whatever_file_finds_the_disk_full_the_job_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_end_in_order", lambda: None)
    path, result = tmp_path / "job.json", tmp_path / "result.json"
    path.write_text(json.dumps({"result": str(result)}))

    def work(_: dict) -> dict:
        raise OSError(code, os.strerror(code), "metrics.jsonl")

    code = errno.ENOSPC
    assert job.run_job(path, work) == 1
    assert json.loads(result.read_text())["error"] == "metrics.jsonl: the disk is full"
    code = errno.EIO
    with pytest.raises(OSError, match="metrics"):
        job.run_job(path, work)
