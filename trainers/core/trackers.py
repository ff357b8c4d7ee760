"""Where a training's numbers go: metrics.jsonl and progress.png always, TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import importlib.util
import json
import math
import time
import uuid
import warnings
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

METRICS = "metrics.jsonl"
FIGURE = "progress.png"
SECONDS_BETWEEN_FIGURES = 60.0  # drawing takes half a second of CPU
FEWEST_POINTS = 2


class Trackers:
    """Writes one line an epoch; see `log`."""

    def __init__(self, folder: Path, also: Sequence[str] = (), *, figure: bool = True, epoch: int = 0) -> None:
        """Begin at an epoch; what services were told of it and later ones by a process that was killed is dropped."""
        self.folder, self._figure = folder, figure
        self._figure_at = -math.inf
        self._board: Any = None
        self._wandb: Any = None
        for tracker in also:
            if tracker == "tensorboard":
                self._board = _tensorboard(folder, epoch)
            else:
                self._wandb = _wandb(folder)

    def log(self, line: dict[str, Any], *, last: bool = False) -> None:
        """Append one epoch's numbers (`epoch` among them); numbers that are not finite become null."""
        line = {key: plain(value) for key, value in line.items()}
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {k: v for k, v in line.items() if k != "epoch" and isinstance(v, (int, float))}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, line["epoch"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=line["epoch"])
        if self._figure and (last or time.monotonic() - self._figure_at >= SECONDS_BETWEEN_FIGURES):
            draw(self.folder)
            self._figure_at = time.monotonic()

    def close(self) -> None:
        """End the services."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def check(services: Sequence[str]) -> None:
    """Refuse services whose package is not installed."""
    for name in services:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"tracker {name}: it is not installed", hint=f"pip install {name}")


def keep_lines(folder: Path, epochs: int) -> None:
    """Drop the lines of epochs that will be trained again, and one that was cut off."""
    path = folder / METRICS
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(line for line in lines[:epochs] if line.endswith("\n")), encoding="utf-8")


def draw(folder: Path) -> None:
    """Draw progress.png from metrics.jsonl: losses above, other measures and the learning rate below."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    keys = [key for key in lines[-1] if key != "epoch" and isinstance(lines[-1][key], (int, float))]
    groups = [
        [key for key in keys if "loss" in key],
        [key for key in keys if not any(word in key for word in ("loss", "rate", "seconds", "skipped"))],
        [key for key in keys if "rate" in key],
    ]
    groups = [group for group in groups if group]
    figure = Figure(figsize=(8, 2.6 * max(1, len(groups))), layout="constrained")
    for place, group in enumerate(groups, start=1):
        axes = figure.add_subplot(len(groups), 1, place)
        for key in group:
            points = [(line["epoch"] + 1, line[key]) for line in lines if line.get(key) is not None]
            style = "-" if len(points) >= FEWEST_POINTS else "o"
            axes.plot(*zip(*points, strict=True), style, label=key.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=1 + len(group) // 6).set_in_layout(False)
        axes.set_xlabel("epoch")
    with atomic_path(folder / FIGURE) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a legend that does not fit is no reason to end a training
        figure.savefig(temporary, format="png", dpi=80, metadata={"Software": None})


def plain(value: Any) -> Any:
    """Return the value with NumPy's and torch's numbers as Python's, and null for those that JSON has no word for."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        value = value.item() if value.size == 1 else value.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tensorboard(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(f"tracker tensorboard does not import: {error}", hint="pip install tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)


def _wandb(folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise TrainingError(f"tracker wandb does not import: {error}", hint="pip install wandb") from error
    known = folder / "wandb.id"  # with it a training that goes on is the same run there
    if not known.is_file():
        with atomic_path(known) as temporary:
            temporary.write_text(uuid.uuid4().hex[:8], encoding="ascii")
    name = f"{folder.parent.name}-{folder.name}"
    return wandb.init(dir=str(folder), name=name, id=known.read_text(encoding="ascii"), resume="allow")
