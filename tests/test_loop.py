"""The loop of the recipes: what is written, and that no end of a process costs more than it must."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from loop_task import LENGTH, Restoration, train

from trainers.core import checkpoints, job
from trainers.core.cases import each_case
from trainers.core.environment import seed_everything
from trainers.core.errors import TrainingError
from trainers.core.estimate import Estimate
from trainers.core.optimisers import OptimiserSettings
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping
from trainers.core.trackers import Trackers

SCRIPT = Path(__file__).with_name("loop_task.py")


FORKING = """
import multiprocessing, signal, time
from trainers.core.stopping import Stopping
with Stopping() as stopping:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.3)
    child.terminate()
    child.join()
    assert child.exitcode == -signal.SIGTERM, child.exitcode
    assert not stopping.reason()
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict]:
    """Return the lines and the outcome of a training that nothing interrupts."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("straight")
    outcome = train(folder, LENGTH, Restoration())
    return lines(folder), outcome


def lines(folder: Path) -> list[dict]:
    """Return metrics.jsonl without what a clock says."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def start(folder: Path, pause: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(pause)], stdout=subprocess.PIPE, text=True)


def test_a_training_writes_a_line_an_epoch_a_figure_and_an_inert_checkpoint(straight, tmp_path) -> None:
    found, outcome = straight
    assert [line["epoch"] for line in found] == [0, 1, 2, 3]
    assert outcome["epoch"] == 4
    assert outcome["stopped"] == ""
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[0]["double"] == pytest.approx(2 * found[0]["loss"], rel=1e-6)
    assert train(tmp_path, LENGTH, Restoration()) == outcome
    assert (tmp_path / "progress.png").read_bytes()[:4] == b"\x89PNG"
    state = torch.load(tmp_path / "checkpoint_latest.pth", weights_only=True)
    assert state["position"]["epoch"] == 4
    assert train(tmp_path, LENGTH, Restoration()) == outcome  # there is nothing left to do


def test_stopped_within_an_epoch_it_goes_on_with_the_next_step(straight, tmp_path) -> None:
    process = start(tmp_path, pause=0.4)
    while not (tmp_path / "checkpoint_latest.pth").exists():  # the last that is done for an epoch
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    stopped = json.loads(said)
    assert stopped["stopped"] == "SIGUSR1"
    assert stopped["epoch"] < 4
    state = torch.load(tmp_path / "checkpoint_latest.pth", weights_only=True)
    assert state["position"]["iteration"] > 0
    assert train(tmp_path, LENGTH, Restoration()) == straight[1]
    assert lines(tmp_path) == straight[0]


@pytest.mark.long
def test_killed_at_ten_random_moments_it_ends_as_if_nothing_had_happened(straight, tmp_path) -> None:
    moments = random.Random(3)  # noqa: S311 - moments, not secrets
    killed = 0
    for _ in range(10):
        process = start(tmp_path, pause=0.1)
        time.sleep(moments.uniform(1.5, 4.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate(timeout=60)
    assert killed >= 3
    assert train(tmp_path, LENGTH, Restoration()) == straight[1]
    assert lines(tmp_path) == straight[0]


def test_a_time_limit_stops_it_and_the_same_call_goes_on(straight, tmp_path) -> None:
    first = train(tmp_path, LENGTH, Restoration(pause=0.05), minutes=0.005)
    assert first["stopped"].startswith("the time limit")
    assert first["epoch"] < 4
    assert train(tmp_path, LENGTH, Restoration()) == straight[1]


@pytest.mark.parametrize("harm", ["cut", "bit"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(straight, tmp_path, harm, capsys) -> None:
    train(tmp_path, {**LENGTH, "epochs": 4}, Restoration(pause=0.02), minutes=0.005)
    train(tmp_path, LENGTH, Restoration(pause=0.02), minutes=0.006)
    latest = tmp_path / "checkpoint_latest.pth"
    assert (tmp_path / "checkpoint_previous.pth").is_file()
    data = bytearray(latest.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    else:
        weights = torch.load(latest, weights_only=True)["module"]["0.weight"].numpy().tobytes()
        data[data.index(weights) + 5] ^= 1
    latest.write_bytes(data)
    assert train(tmp_path, LENGTH, Restoration()) == straight[1]
    assert "is damaged" in capsys.readouterr().err
    assert lines(tmp_path) == straight[0]


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(tmp_path) -> None:
    path = tmp_path / "checkpoint_latest.pth"
    checkpoints.save_state(path, {"a": torch.arange(3)})

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    with pytest.raises(TrainingError, match="the disk is full"):
        checkpoints.save(path, fail)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(3))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TrainingError, match="the disk is full"):
        checkpoints.save_state(path, {"a": _Full()})


class _Full:
    """Cannot be pickled because there is no room."""

    def __reduce__(self) -> tuple:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_steps_without_a_finite_loss_are_skipped_and_counted(tmp_path) -> None:
    outcome = train(tmp_path, LENGTH, Restoration(bad=((0, 2), (2, 0))))
    assert outcome["skipped"] == 2
    assert [line["skipped"] for line in lines(tmp_path)] == [1, 1, 2, 2]
    everything = tuple((epoch, i) for epoch in range(20) for i in range(5))
    with pytest.raises(TrainingError, match="50 steps in a row"):
        train(tmp_path / "bad", {**LENGTH, "epochs": 20}, Restoration(bad=everything))


def test_averaged_weights_and_the_best_checkpoint(tmp_path) -> None:
    outcome = train(tmp_path, {**LENGTH, "ema": 0.9, "best": "-error"}, Restoration())
    plain = train(tmp_path / "plain", LENGTH, Restoration())
    assert outcome["weights"] != plain["weights"]
    errors = [line["error"] for line in lines(tmp_path)]
    settings = {**LENGTH, "ema": 0.9, "best": "-error"}
    assert train(tmp_path / "stopped", settings, Restoration(pause=0.05), minutes=0.005)["epoch"] < 4
    assert train(tmp_path / "stopped", settings, Restoration()) == outcome
    best = torch.load(tmp_path / "checkpoint_best.pth", weights_only=True)
    assert best["position"]["best"] == pytest.approx(-min(errors))
    assert best["average"] is not None


def test_two_processes_take_the_single_process_steps(tmp_path) -> None:
    torch.set_num_threads(1)
    single = Restoration()
    single.module[2].p = 0.0
    alone = train(tmp_path / "one", LENGTH, single)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "timeout": 120}
    (tmp_path / "two").mkdir()
    done = subprocess.run(
        [*command, str(tmp_path / "two"), "0"], capture_output=True, text=True, check=False, **settings
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["weights"] == pytest.approx(alone["weights"], rel=1e-5)
    pairs = zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)


def test_rates_rise_and_fall_as_asked() -> None:
    poly = OptimiserSettings(lr=0.01)
    assert poly.rate(0, 1000) == 0.01
    assert poly.rate(500, 1000) == pytest.approx(0.01 * 0.5**0.9)  # nnU-Net's PolyLRScheduler
    cosine = OptimiserSettings(name="adamw", lr=3e-4, schedule="cosine", warmup=10, final_share=0.1)
    rates = [cosine.rate(epoch, 100) for epoch in range(101)]
    assert rates[0] < 1e-6
    assert max(rates) == rates[10] == pytest.approx(3e-4)
    assert rates[100] == pytest.approx(3e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_rates_of_nnssl_change_once_an_epoch() -> None:
    convolutional = OptimiserSettings(by_epoch=True)
    found = [convolutional.rate(epoch + 0.9, 1000) for epoch in (0, 500, 999)]
    assert found == pytest.approx([1e-2, 5.359e-3, 1.995e-5], rel=1e-3)
    transformer = OptimiserSettings(name="adamw", lr=3e-4, warmup=50, by_epoch=True)
    found = [transformer.rate(epoch + 0.5, 1000) for epoch in (0, 49, 50, 525, 999)]
    assert found == pytest.approx([6.00e-6, 3.00e-4, 3.00e-4, 1.608e-4, 6.27e-7], rel=2e-3)


def test_the_seed_of_a_step_does_not_depend_on_what_ran_before() -> None:
    seed_everything(7)
    first = torch.rand(3)
    torch.rand(100)
    seed_everything(7)
    assert torch.equal(torch.rand(3), first)


def test_processes_that_a_library_forks_end_when_they_are_told_to() -> None:
    """Else multiprocessing waits for them for ever."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_any_bit_that_is_turned_over_is_noticed_or_changes_nothing(tmp_path) -> None:
    path, draw = tmp_path / "checkpoint_latest.pth", random.Random(7)  # noqa: S311 - places, not secrets
    wanted = {"weights": torch.arange(40.0), "position": {"epoch": 3}, "name": "a"}
    checkpoints.save_state(path, wanted)
    whole = path.read_bytes()
    noticed = 0
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        if checkpoints.damage(path):
            noticed += 1
            continue
        found = checkpoints.load_state(path, torch.device("cpu"))
        assert torch.equal(found.pop("weights"), wanted["weights"])
        assert found == {"position": {"epoch": 3}, "name": "a"}
    assert noticed > 100


class Greedy(Restoration):
    """Asks for more memory than any machine has."""

    def losses(self, module: torch.nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.empty(1 << 50).mean()}


def test_out_of_memory_is_answered_with_what_to_change(tmp_path) -> None:
    with pytest.raises(TrainingError, match="cpu: not enough memory for a step") as caught:
        train(tmp_path, LENGTH, Greedy())
    assert "batch_size" in caught.value.hint


def test_what_a_training_will_take_is_told_once_from_three_steps(monkeypatch) -> None:
    clock, said = [0.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    estimate = Estimate(Progress(said), torch.device("cpu"), iterations=240, validations=30, epochs_left=8)
    for seconds in (90, 2, 3, 4, 50, 50):  # the first step warms up, and only three are measured
        clock[0] += seconds
        estimate.step()
    assert said.getvalue().count("\n") == 1
    wanted = r"about 12 min an epoch \(3 s a step\), 100 min in all; \d+\.\d GiB of memory used(, \d+\.\d free)?\n"
    assert re.fullmatch(wanted, said.getvalue())


class Board:
    """Stands in for TensorBoard's writer, which is not installed with us."""

    written: ClassVar[list] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.written.append(("begin", Path(folder).name, purge_step))

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.written.append((key, value, step))

    def close(self) -> None:
        self.written.append("closed")


def test_services_get_the_numbers_and_a_training_that_goes_on_is_the_same_run_there(tmp_path, monkeypatch) -> None:
    calls: list = []
    wandb = types.SimpleNamespace(
        init=lambda **how: (
            calls.append(how) or types.SimpleNamespace(log=lambda *a, **b: calls.append((a, b)), finish=int)
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Board))
    monkeypatch.setattr(Board, "written", [])
    for epoch in (0, 1):
        trackers = Trackers(tmp_path, ("tensorboard", "wandb"), figure=False, epoch=epoch)
        trackers.log({"epoch": epoch, "loss": 0.5 - epoch, "dice": [0.1, 0.2]})
        trackers.close()
    assert Board.written == [
        ("begin", "tensorboard", 0), ("loss", 0.5, 0), "closed",
        ("begin", "tensorboard", 1), ("loss", -0.5, 1), "closed",
    ]  # fmt: skip
    first, numbers, second, _ = calls
    assert first["id"] == second["id"] != ""
    assert second["resume"] == "allow"
    assert numbers == (({"loss": 0.5},), {"step": 0})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match="tracker wandb does not import"):
        Trackers(tmp_path, ("wandb",))


def test_the_figure_is_drawn_at_most_once_a_minute_and_at_the_end(tmp_path, monkeypatch) -> None:
    clock, drawn = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("trainers.core.trackers.draw", lambda _: drawn.append(clock[0]))
    trackers = Trackers(tmp_path)
    for epoch in range(8):
        trackers.log({"epoch": epoch, "loss": 1.0}, last=epoch == 7)
        clock[0] += 25
    assert drawn == [0, 75, 150, 175]


def test_a_stop_waits_for_the_cases_at_work_and_not_for_the_queue() -> None:
    done: list[str] = []

    def work(case: str) -> None:
        time.sleep(0.002)
        done.append(case)

    def stop(_: str) -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        each_case(work, [str(number) for number in range(1000)], 2, stop)
    assert len(done) < 100


def test_data_that_are_prepared_within_a_training_stop_with_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(job, "_end_in_order", lambda: None)
    done: list[str] = []

    def work(case: str) -> None:
        time.sleep(0.002)
        done.append(case)

    def prepare(_: dict) -> dict:
        with Stopping():
            each_case(work, [str(n) for n in range(1000)], 2, lambda _: signal.raise_signal(signal.SIGTERM))
        return {}

    (tmp_path / "job.json").write_text(json.dumps({"result": str(tmp_path / "result.json")}))
    assert job.run_job(tmp_path / "job.json", prepare) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == {"ok": True, "stopped": "SIGTERM"}
    assert len(done) < 100
    assert Stopping.active is None


def test_no_more_cases_are_at_work_than_memory_holds(monkeypatch) -> None:
    monkeypatch.setattr("trainers.core.cases.free_memory", lambda: 1000)
    at_work, most, lock = {"large": 0, "small": 0}, {}, threading.Lock()

    def work(case: str) -> None:
        kind = case.split(maxsplit=1)[0]
        with lock:
            at_work[kind] += 1
            assert not (at_work["large"] and sum(at_work.values()) > 1)
            most[kind] = max(most.get(kind, 0), at_work[kind])
        time.sleep(0.01)
        with lock:
            at_work[kind] -= 1

    names = [f"small {number}" for number in range(12)] + ["large 1", "large 2"]
    nbytes = {"small": 300, "large": 5000}  # of the 800 that may be taken
    each_case(work, names, 8, lambda _: None, nbytes=lambda case: nbytes[case.split()[0]])
    assert most == {"small": 2, "large": 1}


def test_a_time_limit_may_count_from_an_earlier_moment() -> None:
    assert Stopping(1, since=time.monotonic() - 61).reason() == "the time limit of 1 minutes"
    assert not Stopping(1, since=time.monotonic() - 50).reason()
