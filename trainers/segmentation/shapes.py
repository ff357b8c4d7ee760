"""Names and shapes of the weights that a model's network has, without room for the weights themselves."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

LONGEST = 120  # seconds; then the process ends without an answer


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Return `shapes`: name → shape, or null where packages of the network are not installed.

    Job keys: plans, dataset_json, configuration, trainer (one of nnU-Net's own). Nothing of the model is executed.
    Raises `TrainingError` where the plans describe no network.
    """
    if hasattr(signal, "alarm"):
        signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            network = _network(job)
    except TrainingError:
        raise
    except ImportError:
        return {"shapes": None}
    # The plans come from strangers and go through other people's constructors, which fail in many ways.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"{type(error).__name__}: {str(error)[:200]}") from error
    return {"shapes": {name: list(tensor.shape) for name, tensor in network.state_dict().items()}}


def _network(job: dict[str, Any]) -> nn.Module:
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from trainers.segmentation.network import build

    plans = PlansManager(job["plans"])
    configuration = plans.get_configuration(job["configuration"])
    nowhere = Path(job["result"]).parent  # where no trainer_class.py is
    with torch.device("meta"):
        return build(nowhere, plans, configuration, job["dataset_json"], job["trainer"], allow_code=False)
