"""Runs one job of the `pretrain` recipe in a process of its own: `python -P worker.py JOB.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainers.core.job import run_job


def _run(job: dict[str, Any]) -> dict[str, Any]:
    if job["kind"] == "verify":
        from trainers.pretraining.checkpoint import inspect

        return inspect(Path(job["checkpoint"]))
    from trainers.pretraining import train

    return train.run(job)


if __name__ == "__main__":
    raise SystemExit(run_job(Path(sys.argv[1]), _run))
