"""What this machine offers to a training, as one JSON document: `python -P machine.py`."""

from __future__ import annotations

import json
import sys
from typing import Any


def facts() -> dict[str, Any]:
    """Return torch's version, the device that `auto` takes, its memory in bytes, and whether it has bfloat16."""
    import torch

    from trainers.core.environment import bf16_here, choose_device, cpu_count

    device = choose_device("auto")
    found: dict[str, Any] = {
        "torch": torch.__version__, "device": device.type, "cores": cpu_count(), "bf16": bf16_here(device),
        "name": "", "free": None, "total": None, "gpus": 0,
    }  # fmt: skip
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"name": torch.cuda.get_device_name(), "free": free, "total": total, "gpus": torch.cuda.device_count()}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts()))
