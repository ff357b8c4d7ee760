"""Runs one job of the `nnunet` recipe in a process of its own: `python -P worker.py JOB.json`.

The job says what to do (`kind`: train, predict or shapes) and where its result goes (`result`): a JSON document with
`ok` and either the answer or `error` and `hint`. Talk goes to stderr. The process owns its environment, so nnU-Net's
folder variables are set here and a user's own never reach it.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(job_path: Path) -> int:
    """Run the job and write its result."""
    _end_in_order()
    from trainers.core.errors import TrainingError
    from trainers.core.files import write_json

    job = json.loads(job_path.read_text())
    result = Path(job["result"])
    try:
        if job["kind"] == "train":
            from trainers.segmentation import train

            answer = train.run(job)
        elif job["kind"] == "shapes":
            from trainers.segmentation import shapes

            answer = shapes.run(job)
        else:
            from trainers.segmentation import predict

            answer = predict.run(job)
    except TrainingError as error:
        write_json(result, {"ok": False, "error": error.message, "hint": error.hint})
        return 1
    write_json(result, {"ok": True, **answer})
    return 0


def _end_in_order() -> None:
    """Leave through the clean-ups on SIGTERM and Ctrl-C, and do not outlive the command that started this process.

    An orphan would hold the run's lock; a temporary file would stay behind.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
