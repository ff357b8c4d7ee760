"""Put the figures of a run into docs/classification.md: `python docs/classification_pictures.py RUN DATASET`.

The run draws its own figures; here they are copied, and one is added of what the network sees of a case of each class.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trainers.classification.dataset import read_dataset
from trainers.classification.figures import CONFUSION, RELIABILITY, ROC
from trainers.classification.plan import read_plan
from trainers.classification.preprocess import load_case
from trainers.core.files import read_json

IMAGES = Path(__file__).parent / "images"
SIDE = {"cmap": "gray", "origin": "lower", "interpolation": "nearest"}


def main(run: Path, folder: Path) -> None:
    """Copy the figures and draw the cases."""
    for name in (ROC, CONFUSION, RELIABILITY):
        shutil.copyfile(run / name, IMAGES / f"classification-{name}")
    plan, dataset = read_plan(run), read_dataset(folder)
    said = read_json(run / "validation.json")["cases"]
    label, values = plan.labels[0].name, plan.labels[0].values
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for number, (value, part) in enumerate(zip(values, figure.subfigures(1, len(values)), strict=True)):
        case = next(case for case in dataset.cases if case.targets[0] == number)
        found = said[case.name]["labels"][label]["probabilities"][number]
        part.suptitle(f"{value}: {found:.2f}", fontsize=10)
        _draw(part, load_case(case.images, case.mask, plan))
    figure.savefig(IMAGES / "classification-cases.png", dpi=80, metadata={"Software": None})


def _draw(figure: Any, case: Any) -> None:
    """Draw a slice from the side and one across, through the middle, with the edge of the region of interest."""
    depth, height, width = case.mask.shape
    grid = figure.subplots(1, 2, width_ratios=(height, width))
    for axes, cut in zip(grid, ((..., width // 2), (depth // 2, ...)), strict=True):
        axes.imshow(case.images[0][cut], **SIDE)
        axes.contour(case.mask[cut] > 0, levels=[0.5], colors="#ff7f0e", linewidths=1)
        axes.set_axis_off()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
