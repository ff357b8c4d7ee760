"""Runs one job of the `nnunet` recipe in a process of its own: `python -P worker.py JOB.json`.

The job says what to do (`kind`: train, predict, crop or shapes) and where its result goes (`result`): a JSON document
with `ok` and either the answer or `error` and `hint`. Talk goes to stderr. The process owns its environment, so
nnU-Net's folder variables are set here and a user's own never reach it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainers.core.job import run_job


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["kind"] == "train":
        from trainers.segmentation import train

        return train.run(job)
    if job["kind"] == "shapes":
        from trainers.segmentation import shapes

        return shapes.run(job)
    if job["kind"] == "crop":
        from trainers.segmentation import cropping

        return cropping.run(job)
    from trainers.segmentation import predict

    return predict.run(job)


if __name__ == "__main__":
    raise SystemExit(run_job(Path(sys.argv[1]), _run))
