"""Runs one job of the `lesion` recipe in a process of its own: `python -P worker.py JOB.json`.

The job says what to do (`kind`: train or predict) and where its result goes (`result`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainers.core.job import run_job


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["kind"] == "train":
        from trainers.lesion import train

        return train.run(job)
    from trainers.lesion import predict

    return predict.run(job)


if __name__ == "__main__":
    raise SystemExit(run_job(Path(sys.argv[1]), _run))
