"""`mreg demo`: the whole chain on real MRI with the real commands, in a folder registry, without network."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from registry import demo_data, names, output
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

# Values that reach a Dice of 0.9 on both tissues of the template in a few minutes on two processor cores; a smaller
# net and fewer steps than nnU-Net plans, everything else is nnU-Net's.
TISSUE_SETTINGS = {
    "configuration": "2d",
    "epochs": 10,
    "iterations": 50,
    "val_iterations": 5,
    "batch_size": 8,
    "patch_size": "[128, 128]",
    "features": "[16, 32, 64, 128]",
    "checkpoint_minutes": 1,
}
# Cord images are small and their slices thick in places: patches in three dimensions, as SCT's models use.
CORD_SETTINGS = {
    "configuration": "3d_fullres",
    "epochs": 10,
    "iterations": 50,
    "val_iterations": 5,
    "batch_size": 2,
    "patch_size": "[48, 48, 32]",
    "features": "[16, 32, 64, 128]",
    "checkpoint_minutes": 1,
}
DATASET_ID = 701
FEWEST_SUBJECTS = 3  # to train, to validate, to test


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the demo trains: a name, a BIDS tree, and the flags of `mreg data import`."""

    name: str
    bids: Path
    contrast: str
    labels: dict[str, str]  # label → tail of the mask's file name
    test_subjects: tuple[str, ...]
    settings: dict[str, Any]


@dataclass
class Chain:
    """Runs commands in one folder and remembers how long each took."""

    folder: Path
    registry: str
    stages: list[dict[str, Any]] = field(default_factory=list)

    def run(self, name: str, *arguments: object, cwd: Path | None = None) -> str:
        """Run `mreg ARGUMENTS…` as a user would, and return what it printed."""
        words = [str(argument) for argument in arguments]
        output.say(f"\n$ mreg {shlex.join(words)}")
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "registry", *words],
            cwd=cwd or self.folder,
            env={**os.environ, "MREG_REGISTRY": self.registry, "MREG_CACHE": str(self.folder / "cache")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if done.returncode != 0:
            raise MregError(f"mreg {words[0]} ended with status {done.returncode}", hint="its message is above")
        self.stages.append({"name": name, "seconds": round(seconds, 2)})
        output.say(f"  {name}: {seconds:.1f} s")
        return done.stdout.strip()


def run(work: Path, bids: Path | None) -> dict[str, Any]:
    """Run the chain below `work`; return stages, Dice per test case and label, the archive and the picture.

    Run again in the same folder, it continues: every command finds what is done.
    """
    work = work.resolve()
    marker = work / "demo.json"
    if work.exists() and any(work.iterdir()) and not marker.is_file():
        raise ConflictError(f"{work}: not empty and not a demo's folder", hint="name another one: mreg demo --dir DIR")
    work.mkdir(parents=True, exist_ok=True)
    source = str(bids.resolve()) if bids else "MNI152"
    if marker.is_file() and read_json(marker)["data"] != source:
        raise ConflictError(f"{work}: holds a demo on other data", hint="name another folder: mreg demo --dir DIR")
    today = read_json(marker)["tag"] if marker.is_file() else f"r{date.today():%Y%m%d}"  # noqa: DTZ011 - a local date
    write_json(marker, {"data": source, "tag": today})
    return _run_task(_bids_task(bids) if bids else _tissue_task(work / "bids"), work, today)


def _run_task(task: Task, work: Path, tag: str) -> dict[str, Any]:
    chain = Chain(work, f"dir:{work / 'registry'}")
    repo = work / task.name
    chain.run("new", "new", task.name, "--dir", work)
    labels = [word for label, tail in task.labels.items() for word in ("--label", f"{label}={tail}")]
    tests = [word for subject in task.test_subjects for word in ("--test-subject", subject)]
    dataset = chain.run(
        "import", "data", "import", os.path.relpath(task.bids, repo), "data/raw", "--dataset-id", DATASET_ID,
        "--contrast", task.contrast, *labels, *tests, cwd=repo,
    )  # fmt: skip
    settings = [word for key, value in task.settings.items() for word in ("--set", f"{key}={value}")]
    run_folder = chain.run("train", "train", *settings, cwd=repo)
    evaluation = json.loads(chain.run("evaluate", "evaluate", run_folder, dataset, "--json", cwd=repo))
    chain.run("check", "check", ".", cwd=repo)
    chain.run("release", "release", ".", "--tag", tag, "--publish-with", "direct", cwd=repo)
    archive = chain.run("fetch", "fetch", f"{task.name}@{tag}", "-o", work / "fetched")
    images = sorted((repo / dataset / "imagesTs").glob("*.nii.gz"))
    chain.run("predict", "predict", f"{task.name}@{tag}", *images, "-o", work / "predictions")
    dice = {
        case: {label: values["dice"] for label, values in by_label.items()}
        for case, by_label in evaluation["cases"].items()
    }
    from registry.demo_picture import draw

    start = time.monotonic()
    picture = draw(images[0], repo / dataset / "labelsTs", work / "predictions", list(task.labels), work / "demo.png")
    chain.stages.append({"name": "picture", "seconds": round(time.monotonic() - start, 2)})
    return {"stages": chain.stages, "dice": dice, "archive": archive, "picture": str(picture)}


def _tissue_task(bids: Path) -> Task:
    """Return the demo's own task: grey and white matter of the MNI152 template."""
    with output.stage("cut the MNI152 template into slabs"):
        tests = demo_data.write_bids(bids)
    return Task(
        name="model_seg_gm-wm_t1",
        bids=bids,
        contrast="T1w",
        labels=demo_data.TISSUES_LABELS,
        test_subjects=tuple(tests),
        settings=TISSUE_SETTINGS,
    )


def _bids_task(bids: Path) -> Task:
    """Read a task off a BIDS tree: its most frequent contrast with a mask, tested on the last subject."""
    if not bids.is_dir():
        raise NotFoundError(f"{bids}: no such folder", hint="--data wants a BIDS tree with masks in derivatives/labels")
    counts: dict[tuple[str, str], set[str]] = {}
    for mask in (bids / "derivatives" / "labels").rglob("*_seg.nii.gz"):
        found = re.fullmatch(r"(sub-[^_]+)_(?:.+_)?([A-Za-z0-9]+)_label-(\w+)_seg\.nii\.gz", mask.name)
        if found:
            subject, contrast, label = found.groups()
            if _anatomy(label) and _contrast(contrast):
                counts.setdefault((contrast, label), set()).add(subject)
    if not counts:
        raise NotFoundError(
            f"{bids}: no mask named sub-…_CONTRAST_label-NAME_seg.nii.gz under derivatives/labels",
            hint="the demo wants masks of something that the naming vocabulary knows, e.g. label-SC_seg",
        )
    (contrast, label), subjects = max(counts.items(), key=lambda item: (len(item[1]), item[0]))
    if len(subjects) < FEWEST_SUBJECTS:
        raise MregError(
            f"{bids}: {len(subjects)} subjects with {contrast} and {label} masks", hint="the demo needs three"
        )
    return Task(
        name=f"model_seg_{_anatomy(label)}_{_contrast(contrast)}",
        bids=bids,
        contrast=contrast,
        labels={_anatomy(label): f"{label}_seg"},
        test_subjects=(max(subjects),),
        settings=CORD_SETTINGS,
    )


def _term(text: str, wanted: str) -> str:
    """Return the naming term of that field for a BIDS word, "" where there is none."""
    result = names.parse(f"model_{text}")
    found = (result.fields or {}).get(wanted)
    return found[0] if found else ""


def _anatomy(label: str) -> str:
    return _term(label, "anatomy")


def _contrast(suffix: str) -> str:
    return _term(suffix, "contrast")


def dice_table(dice: dict[str, dict[str, float | None]]) -> str:
    """Return the Dice of each test case and label, and the mean, as aligned text."""
    labels = list(next(iter(dice.values())))
    width = max(len("mean"), *(len(case) for case in dice))
    lines = ["  ".join([f"{'case':<{width}}", *(f"{label:>6}" for label in labels)])]
    rows = dict(dice)
    defined = {label: [v for row in dice.values() if (v := row[label]) is not None] for label in labels}
    rows["mean"] = {label: sum(values) / len(values) if values else None for label, values in defined.items()}
    for case, row in rows.items():
        cells = ("     -" if (v := row[label]) is None else f"{v:6.3f}" for label in labels)
        lines.append("  ".join([f"{case:<{width}}", *cells]))
    return "\n".join(lines)
