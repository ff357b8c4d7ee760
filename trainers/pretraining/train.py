"""Recipe `pretrain`: prepare the images, train an encoder on all subjects but a few, and export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from threadpoolctl import threadpool_limits

from trainers.core import checkpoints, trackers
from trainers.core.distributed import Ranks
from trainers.core.environment import cpu_count, describe, ready_device, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.job import alone
from trainers.core.loop import Loop, LoopSettings, autocast_dtype
from trainers.core.progress import Progress
from trainers.core.spawning import in_processes, share
from trainers.core.stopping import Stopping
from trainers.nets.primus import PrimusConfig
from trainers.nets.resenc import ResEncConfig
from trainers.pretraining.checkpoint import adaptation_plan, in_own_order, options_of, save_final, verify
from trainers.pretraining.choice import Choice
from trainers.pretraining.config import LENGTHS, TINY_ENCODERS, PretrainingSettings
from trainers.pretraining.cost import count, forecast
from trainers.pretraining.images import ImageStore
from trainers.pretraining.method import fitted
from trainers.pretraining.methods import make
from trainers.pretraining.prepare import Preparation, prepare
from trainers.pretraining.task import PretrainingTask

if TYPE_CHECKING:
    from trainers.pretraining.method import Method, Net
    from trainers.pretraining.prepare import Prepared

FOLD = "fold_all"
PLAN = "adaptation_plan.json"
MEASURE = "-val_loss"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a training job; return the folds that were trained now and those that were done before.

    Job keys: dataset (folder with pretrain_data.json), run, cache (folders), settings, config (what the run's
    config.json says), gpus, max_minutes.
    """
    run_folder = Path(job["run"])
    with alone(run_folder), Stopping(job.get("max_minutes"), since=job.get("since")) as stopping:
        return _run(job, run_folder, Progress(), stopping)


def _run(job: dict[str, Any], run_folder: Path, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    settings = PretrainingSettings.model_validate(job["settings"])
    method, net = build(settings)
    device = ready_device(settings.device)
    progress.say(f"device: {device} ({torch.get_num_threads()} threads)")
    how = Preparation(
        configuration=settings.configuration, threads=cpu_count(),
        orientation=None if settings.keep_orientation else settings.orientation,
        choice=Choice(modalities=settings.modalities, worst_quality=settings.worst_quality),
    )  # fmt: skip
    prepared = prepare(Path(job["dataset"]), Path(job["cache"]), how, progress)
    plan = adaptation_plan(method, net, prepared.plans, tiny=settings.profile == "tiny")
    write_json(run_folder / "plans.json", prepared.plans)
    write_json(run_folder / PLAN, plan)
    write_json(run_folder / "environment.json", describe(device, settings.seed, job["config"]["dataset"]["hash"]))
    write_json(run_folder / "config.json", job["config"])  # with it the folder is a run
    folder = run_folder / FOLD
    if (folder / checkpoints.FINAL).is_file():
        return {"trained": [], "done_before": ["all"], "stopped": ""}
    if job.get("gpus", 1) > 1:
        in_processes(job["gpus"], _share, (settings, prepared, plan, folder, device), stopping)
        finished = (folder / checkpoints.FINAL).is_file()
        reason = "" if finished else stopping.reason() or "one of its processes"
    else:
        reason = train(settings, (method, net), prepared, plan, folder, device, progress, stopping, Ranks())
    return {"trained": [] if reason else ["all"], "done_before": [], "stopped": reason}


def _share(
    settings: PretrainingSettings, prepared: Prepared, plan: dict[str, Any], folder: Path, device: torch.device,
    stopping: Stopping,
) -> None:  # fmt: skip
    """Train as one of several processes."""
    with share(device) as (ranks, own, progress):
        train(settings, build(settings), prepared, plan, folder, own, progress, stopping, ranks)


def build(settings: PretrainingSettings) -> tuple[Method, Net]:
    """Return method and encoder of the settings; raise `TrainingError` where they are wrong or do not go together."""
    tiny = settings.profile == "tiny"
    method = make(settings.method, settings.encoder, tiny=tiny, options=settings.method_options)
    kind: Any = ResEncConfig if settings.encoder == "resenc" else PrimusConfig
    options = {**(TINY_ENCODERS[settings.encoder] if tiny else {}), **settings.encoder_options}
    if unknown := sorted(set(options) - set(kind.__dataclass_fields__) | {"patch", "channels_out"} & set(options)):
        raise TrainingError(f"encoder {settings.encoder} has no option {unknown[0]!r}")
    try:
        net: Net = TypeAdapter(kind).validate_python(options | ({"patch": method.seen} if kind is PrimusConfig else {}))
        return method, fitted(net, method)
    except ValueError as error:
        raise TrainingError(f"method {settings.method} with encoder {settings.encoder}: {error}") from error


def train(
    settings: PretrainingSettings, pair: tuple[Method, Net], prepared: Prepared, plan: dict[str, Any], folder: Path,
    device: torch.device, progress: Progress, stopping: Stopping, ranks: Ranks,
) -> str:  # fmt: skip
    """Train from the last checkpoint on and export the encoder; return why it stopped before its end, "" at it."""
    method, net = pair
    seed_everything(settings.seed)
    images = tuple(
        ImageStore(
            prepared.folder, cases, anonymised=settings.leave_out_anonymised, anatomy=settings.centre_on_anatomy > 0
        )
        for cases in (prepared.training, prepared.validation)
    )
    task = PretrainingTask(
        method, net, (images[0], images[1]), batch=batch_size(settings, method), seed=settings.seed,
        val_iterations=settings.length("val_iterations"), device=device, ranks=ranks,
        threads=_threads(settings, device), on_anatomy=settings.centre_on_anatomy,
    )  # fmt: skip
    verify(task.module.state_dict(), plan)
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.first and settings.profile == "full":
        progress.say(outlook(settings, pair, device, ranks))
    loop = Loop(task, loop_settings(settings, method), folder, device=device, ranks=ranks)
    try:
        with progress.stage("train"), threadpool_limits(torch.get_num_threads()):
            outcome = loop.run(progress, stopping)
    finally:
        task.close()
    if not outcome.stopped and ranks.first:
        about = {
            **_history(folder), "method": settings.method, "encoder": settings.encoder, "epochs": outcome.epoch,
            "trainer_name": f"mreg_{settings.method}_{settings.encoder}", **options_of(method, net),
        }  # fmt: skip
        weights = in_own_order(loop.weights.state_dict(), net, plan)
        save_final(folder / checkpoints.FINAL, weights, plan, about)
        for name in (checkpoints.LATEST, checkpoints.PREVIOUS):
            (folder / name).unlink(missing_ok=True)
    return outcome.stopped


def loop_settings(settings: PretrainingSettings, method: Method) -> LoopSettings:
    """Return what the loop needs of the settings."""
    same = ("precision", "seed", "checkpoint_minutes", "trackers")
    return LoopSettings.model_validate({
        **{key: getattr(settings, key) for key in same}, "best": MEASURE,
        "epochs": settings.length("epochs"), "iterations": settings.length("iterations"),
        "optimiser": settings.optimiser(method.clip[settings.encoder]),
    })  # fmt: skip


def outlook(settings: PretrainingSettings, pair: tuple[Method, Net], device: torch.device, ranks: Ranks) -> str:
    """Return what a training will take, as a line for people; its first steps, measured, say it better."""
    plan = {
        "steps": settings.length("epochs") * settings.length("iterations"),
        "images": batch_size(settings, pair[0]) // ranks.size,
        "optimiser": settings.optimiser(None)["name"],
    }
    return forecast(count(*pair), device, autocast_dtype(settings.precision, device), plan)


def batch_size(settings: PretrainingSettings, method: Method) -> int:
    """Return the images of a step, over all processes."""
    return settings.batch_size or LENGTHS[settings.profile].get("batch_size", method.batch)


def _history(folder: Path) -> dict[str, Any]:
    """Return losses and rates of the epochs, under nnssl's names."""
    text = (folder / trackers.METRICS).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    losses = [line.get("val_loss") for line in lines]
    known = [value for value in losses if value is not None]
    logging = {
        "train_losses": [line.get("loss") for line in lines], "val_losses": losses,
        "lrs": [line.get("learning_rate") for line in lines],
    }  # fmt: skip
    return {"logging": logging, "best": min(known) if known else None}


def _threads(settings: PretrainingSettings, device: torch.device) -> int:
    """Return how many threads read ahead; on a CPU the network wants the cores."""
    if settings.workers is not None:
        return settings.workers
    return 0 if device.type == "cpu" else min(12, cpu_count())
