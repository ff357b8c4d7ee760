"""`mreg train --launcher slurm`: a training as one Slurm job that is queued again until the training is done.

submitit writes the batch script and asks Slurm for a signal ahead of the time limit. At that signal, or at those of a
preemption, the training saves its step and the job goes back into the queue under the same number.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from registry import output, training
from registry.errors import ConflictError, MregError, StoppedError
from registry.model_toml import find_repo
from registry.problems import describe
from registry.stores import config_path

if TYPE_CHECKING:
    from registry.model_toml import Repo
    from registry.starts import Start

FOLDER = "slurm"  # in the run's folder: batch scripts, pickled jobs, logs
LATEST = "latest.txt"  # number of the last job
TO_COME = {"PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "PREEMPTED", "SUSPENDED"}
GRACE = 60.0  # seconds between the two signals of a preemption
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+)(?::(?P<minutes>\d+))?(?::(?P<seconds>\d+))?")


class SlurmSettings(BaseModel):
    """What a job asks for: [slurm] of the user's config file, changed by `--set slurm.KEY=VALUE`."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    partition: str | None = Field(None, description="partition; none: the cluster's own default")
    account: str | None = Field(None, description="account that is charged")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that a node must have")
    time: str = Field("12:00:00", description="time limit of one job, HH:MM:SS or D-HH:MM:SS; the next one goes on")
    mem: str = Field("32G", pattern=r"^\d+(\.\d+)?[KMGT]B?$", description="memory of the node")
    cpus: int = Field(8, ge=1, description="processors")
    gpus: str | None = Field(
        None, description='GPUs where not as many as --gpus, perhaps with their kind: "a100:1"; "0" asks for none'
    )
    warning: int = Field(120, ge=10, description="seconds ahead of the time limit at which the training saves")
    chain: int = Field(100, ge=0, description="how often a job that reached its time limit is queued again")
    setup: tuple[str, ...] = Field((), description='shell lines ahead of the training, e.g. ["module load cuda"]')
    options: dict[str, str | int | bool] = Field({}, description='other options of sbatch, e.g. {reservation = "mri"}')

    @field_validator("time", mode="before")
    @classmethod
    def _time_is_slurms(cls, value: Any) -> str:
        text = str(value)  # TOML has times of day, which look the same
        if minutes_of(text) < 1:
            raise ValueError("write HH:MM:SS or D-HH:MM:SS, one minute at least")
        return text


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job in the queue."""

    run: Path  # where its result will be
    job: str  # its number
    log: Path


@dataclass(frozen=True)
class TrainingJob:
    """What a job does: train, and have itself queued again when it is told to stop. submitit pickles it."""

    root: str
    overrides: dict[str, Any]
    gpus: int
    start: Start | None = None  # found when the job was submitted: a node may reach no registry

    def __call__(self) -> dict[str, Any]:
        """Train until the training is done, or the job has to end."""
        try:
            run, answer = training.train(find_repo(Path(self.root)), self.overrides, gpus=self.gpus, start=self.start)
        except StoppedError as stopped:
            output.say(stopped.message)
            name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
            if name in stopped.signals:
                signal.raise_signal(signal.Signals[name])  # submitit queues the job again and leaves
            time.sleep(GRACE)  # a preemption says SIGTERM first; Slurm may also end and queue the job by itself
            raise
        return {"run": str(run.path), **answer}

    def checkpoint(self, *_: Any) -> Any:
        """Return what the job does when its turn comes again: the same, from where it was saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def minutes_of(text: str) -> int:
    """Return the minutes of a time in Slurm's notation, 0 where it is none.

    >>> minutes_of("1-12:00:00"), minutes_of("00:30:00"), minutes_of("soon")
    (2160, 30, 0)
    """
    found = TIME.fullmatch(text)
    if not found or (not found["days"] and not found["seconds"]):
        return 0
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return (days * 24 + hours) * 60 + minutes + seconds // 60


def submit(
    repo: Repo,
    overrides: dict[str, Any],
    wanted: dict[str, Any],
    *,
    gpus: int = 1,
    restart: bool = False,
    registry: str | None = None,
    cluster: str = "slurm",
) -> Submitted:
    """Put a training into the queue; what is wrong with its settings or data is said here and not hours later.

    `wanted` changes the `[slurm]` of the user's config file; what the training starts from is fetched now, from
    `registry`. Raises `MregError` where there is no Slurm or no submitit,
    and `ConflictError` while a job of the same run is queued or running.
    """
    settings = slurm_settings(wanted)
    _require(cluster)
    planned = training.plan(repo, overrides, registry=registry)
    folder = planned.run.resolve() / FOLDER
    _refuse_second_job(folder)
    if restart:
        training.set_aside(planned.run)
    if planned.settings["device"] == "cpu":
        gpus = 0
    training_job = TrainingJob(str(repo.root.resolve()), overrides, max(gpus, 1), planned.start)
    job = _submit(folder, settings, training_job, gpus, cluster)
    (folder / LATEST).write_text(f"{job.job_id}\n")
    return Submitted(run=planned.run, job=str(job.job_id), log=Path(job.paths.stdout))


def slurm_settings(wanted: dict[str, Any]) -> SlurmSettings:
    """Return what a job asks for; `wanted` wins over the user's config file."""
    path = config_path()
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8")).get("slurm", {}) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MregError(f"{path}: {error}", hint="mend or remove the file") from error
    if not isinstance(written, dict):
        raise MregError(f"{path}: slurm = {written!r} is not a table", hint="write [slurm] and its keys below")
    try:
        return SlurmSettings.model_validate({**written, **wanted})
    except ValidationError as error:
        known = ", ".join(SlurmSettings.model_fields)
        where = f"[slurm] of {path} with --set slurm.…" if written else "--set slurm.…"
        raise MregError(f"{where}: {describe(error)}", hint=f"settings are: {known}") from error


def _require(cluster: str) -> None:
    if importlib.util.find_spec("submitit") is None:
        raise MregError("submitit is not installed", hint='install it: pip install "mreg[train]"')
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None] if cluster == "slurm" else []
    if missing:
        raise MregError(
            f"{missing[0]} is not on the PATH: this machine starts no Slurm jobs",
            hint="run it on a login node of the cluster, or without --launcher slurm",
        )


def _refuse_second_job(folder: Path) -> None:
    """Two trainings in one folder: file locks do not hold between the machines of every cluster."""
    import submitit

    if not (folder / LATEST).is_file():
        return
    number = (folder / LATEST).read_text().strip()
    state = submitit.SlurmJob(folder, number).state if shutil.which("sacct") else ""
    if state.partition(" ")[0] in TO_COME:
        raise ConflictError(
            f"{folder.parent}: job {number} is {state} already",
            hint=f"squeue -j {number} shows it, scancel {number} ends it",
        )


def _submit(folder: Path, settings: SlurmSettings, job: TrainingJob, gpus: int, cluster: str) -> Any:
    """Hand the job to submitit; `cluster` local runs it on this machine, as the tests do."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder.mkdir(parents=True, exist_ok=True)
    python = f"{shlex.quote(sys.executable)} -P"  # a model's repo may have packages that are called as ours are
    executor = submitit.AutoExecutor(
        folder, cluster=cluster, slurm_python=python, local_python=python,
        slurm_max_num_timeout=settings.chain, local_max_num_timeout=settings.chain,
    )  # fmt: skip
    asked = settings.gpus or str(gpus)
    options = settings.options | ({} if asked == "0" else {"gpus-per-node": asked})
    executor.update_parameters(
        name=f"mreg-{Path(job.root).name}", timeout_min=minutes_of(settings.time), cpus_per_task=settings.cpus,
        stderr_to_stdout=True, slurm_partition=settings.partition, slurm_account=settings.account,
        slurm_qos=settings.qos, slurm_constraint=settings.constraint, slurm_mem=settings.mem,
        slurm_signal_delay_s=settings.warning, slurm_setup=list(settings.setup),
        slurm_additional_parameters={"requeue": True, "open-mode": "append", **options},
    )  # fmt: skip
    try:
        return executor.submit(job)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip().splitlines()
        raise MregError(
            f"sbatch refused the job: {said[-1] if said else 'without a reason'}",
            hint="--set slurm.partition=…, slurm.account=…, slurm.time=… say what the cluster wants to know",
        ) from error
