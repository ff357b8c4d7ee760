"""Runs one job of the `classification` recipe in a process of its own: `python -P worker.py JOB.json`.

The job says what to do (`kind`: train, predict or evaluate) and where its result goes (`result`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainers.core.job import run_job


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["kind"] == "train":
        from trainers.classification import train

        return train.run(job)
    from trainers.classification import predict

    return predict.evaluate(job) if job["kind"] == "evaluate" else predict.run(job)


if __name__ == "__main__":
    raise SystemExit(run_job(Path(sys.argv[1]), _run))
