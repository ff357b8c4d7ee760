"""`mreg train --launcher slurm`: chains of jobs, with submitit's local executor and with a Slurm of three scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
from command import run_mreg

from registry import slurm
from registry.errors import ConflictError, MregError
from registry.keys import toml_value
from registry.model_toml import find_repo
from trainers.core.stopping import Stopping

SBATCH = """\
#!/bin/sh
# Runs the batch script here and now, as job 4711.
cp "$1" "$FAKE_SLURM/script.sh"
echo "Submitted batch job 4711"
"""
SRUN = """\
#!/bin/sh
while case "$1" in -*) true ;; *) false ;; esac; do
    case "$1" in --output|--error) shift ;; esac
    shift
done
exec "$@"
"""
SACCT = """\
#!/bin/sh
echo "JobID|State|NodeList"
echo "4711|$(cat "$FAKE_SLURM/state")|node1"
"""


@pytest.fixture
def repo(trained_repo: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained repo."""
    return Path(shutil.copytree(trained_repo, tmp_path / trained_repo.name, symlinks=True))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a Slurm on the PATH that takes one job and does not run it; return its folder."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "state").write_text("COMPLETED")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def the_run(repo: Path) -> Path:
    (run,) = (p for p in (repo / "runs").iterdir() if (p / "config.json").is_file())
    return run


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "fold_0" / "metrics.jsonl").read_text().splitlines()]


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="finds the job's processes in /proc")
def test_a_preempted_job_saves_is_queued_again_and_ends_as_if_nothing_had_happened(
    repo: Path, trained_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = Path(shutil.copytree(trained_repo, tmp_path / "straight" / trained_repo.name, symlinks=True))
    longer = {"iterations": 150}  # so that seconds are left when the first checkpoint is there
    done = run_mreg("train", "--json", "--set", "iterations=150", cwd=straight)
    assert done.returncode == 0, done.stderr
    jobs, submit = [], slurm._submit
    monkeypatch.setattr(slurm, "_submit", lambda *a: jobs.append(submit(*a)) or jobs[0])
    submitted = slurm.submit(find_repo(repo), longer, {}, cluster="local")
    run = submitted.run
    assert run.name == Path(json.loads(done.stdout)["run"]).name
    controller = int(submitted.job)
    wait_for((run / "fold_0" / "checkpoint_latest.pth").exists, "the first checkpoint")
    (task,) = children(controller)
    os.kill(task, signal.SIGTERM)  # a preemption, as Slurm announces it
    os.kill(task, signal.SIGUSR2)
    log = submitted.log
    wait_for(lambda: log.read_text().count("Requeued job") == 1, "the first end")
    assert "everything is saved" in log.read_text()
    # The time limit, which comes before the second job has begun to train; Slurm tells every process of a job.
    wait_for(lambda: children(controller) and children(children(controller)[0]), "the second job's worker")
    (task,) = children(controller)
    for pid in (*children(task), task):
        os.kill(pid, signal.SIGUSR2)
    wait_for(lambda: log.read_text().count("Requeued job") == 2, "the second end")
    (job,) = jobs
    job._process.wait(timeout=120)
    assert job.result() == {"run": str(run), "trained": [0], "done_before": []}
    assert "continues at epoch" in log.read_text()
    assert losses(run) == losses(Path(json.loads(done.stdout)["run"]))


def test_the_batch_script_asks_for_what_was_said_and_runs_the_training(repo: Path, cluster: Path) -> None:
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "mreg" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[slurm]\npartition = "long"\naccount = "def-mri"\nsetup = ["echo here"]\n')
    done = run_mreg(
        "train", "--launcher", "slurm", "--gpus", 2, "--device", "auto", "--json", "--set", "slurm.partition=gpu",
        "--set", "slurm.time=06:30:00", "--set", "slurm.mem=48G", "--set", "slurm.options={reservation = 'mri'}",
        cwd=repo,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["job"], Path(answer["run"])) == ("4711", the_run(repo))
    script = (cluster / "script.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))
    wanted = {
        "partition": "gpu", "account": "def-mri", "time": "390", "mem": "48G", "gpus-per-node": "2",
        "reservation": "mri", "signal": "USR2@120", "requeue": "", "open-mode": "append", "cpus-per-task": "8",
    }  # fmt: skip
    assert {key: asked[key] for key in wanted} == wanted
    assert "echo here" in script
    # What the script starts: the training of this run is done, so it ends at once.
    environment = {**os.environ, "SLURM_JOB_ID": "4711", "SUBMITIT_EXECUTOR": "slurm"}
    ran = subprocess.run(
        ["bash", cluster / "script.sh"], env=environment, cwd=repo, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    result = submitit.SlurmJob(the_run(repo) / "slurm", "4711").result()
    assert result == {"run": str(the_run(repo)), "trained": [], "done_before": [0]}


def test_one_run_has_one_job_at_a_time(repo: Path, cluster: Path) -> None:
    first = slurm.submit(find_repo(repo), {}, {})
    (cluster / "state").write_text("RUNNING")
    with pytest.raises(ConflictError, match="job 4711 is RUNNING already") as caught:
        slurm.submit(find_repo(repo), {}, {})
    assert "scancel 4711" in caught.value.hint
    (cluster / "state").write_text("CANCELLED by 1000")
    assert slurm.submit(find_repo(repo), {}, {}, restart=True).run == first.run
    assert first.run.with_name(f"{first.run.name}.old1").is_dir()


def test_a_training_on_the_processor_asks_for_no_gpu(repo: Path, cluster: Path) -> None:
    slurm.submit(find_repo(repo), {"device": "cpu"}, {})
    assert "gpus" not in (cluster / "script.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--set", "slurm.partitoin=gpu"], 1, "unknown key 'partitoin'"),
        (["--set", "slurm.time=soon"], 1, "write HH:MM:SS"),
        (["--set", "slurm.mem=much"], 1, "mem = 'much'"),
        (["--set", "epochs=-3"], 1, "epochs = -3"),
        (["--max-time", "3"], 2, "slurm.time"),
        (["--validation-only"], 2, "--validation-only is for --launcher local"),
    ],
)
def test_what_is_wrong_is_said_before_a_job_is_queued(repo, cluster, mreg, arguments, status, message) -> None:
    done = mreg("train", repo, "--launcher", "slurm", *arguments)
    assert done.exit_code == status
    assert message in done.stderr
    assert not (cluster / "script.sh").exists()


def test_settings_of_slurm_without_slurm_are_refused(repo, mreg) -> None:
    done = mreg("train", repo, "--set", "slurm.partition=gpu")
    assert done.exit_code == 2
    assert "--launcher slurm" in done.stderr


def test_without_slurm_or_submitit_the_way_out_is_said(repo, cluster, mreg, monkeypatch) -> None:
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(MregError, match=r"sbatch refused the job: .*invalid partition"):
        slurm.submit(find_repo(repo), {}, {})
    (cluster / "sbatch").unlink()
    assert "sbatch is not on the PATH" in mreg("train", repo, "--launcher", "slurm").stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda _: None)
    done = mreg("train", repo, "--launcher", "slurm")
    assert done.exit_code == 1
    assert "submitit is not installed" in done.stderr
    assert 'pip install "mreg[train]"' in done.stderr


@pytest.mark.parametrize(
    ("text", "minutes"), [("08:00:00", 480), ("1-00", 1440), ("2-01:30", 2970), ("90", 0), ("x", 0)]
)
def test_times_are_slurms(text: str, minutes: int) -> None:
    assert slurm.minutes_of(text) == minutes


def test_a_signal_that_comes_twice_is_one_signal() -> None:
    with Stopping() as stopping:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR2):
            signal.raise_signal(number)
        assert stopping.reason() == "SIGUSR2"
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)


def test_the_manual_has_every_setting() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "training.md").read_text()
    for name, field in slurm.SlurmSettings.model_fields.items():
        default = "" if field.default is None else f"`{toml_value(field.default)}`"
        assert f"| `{name}` | {default} | {field.description} |" in page
