"""Loading a trained model: what is read, what is refused, and that nothing in it is executed."""

import json
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from fixtures_model import write_model

from trainers.core.errors import TrainingError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nnU-Net's dependencies
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401

    from trainers.segmentation.checkpoint import read_checkpoint, rounded_to_half
    from trainers.segmentation.network import find_builder, load_model

EPOCHS_ONLY = """\
raise SystemExit("this file was executed")
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_long(nnUNetTrainer):
    def initialize(self):
        self.num_epochs = 4000
"""
OWN_NETWORK = """\
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_own(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, configuration, inputs, outputs, enable_deep_supervision=True):
        return torch.nn.Conv3d(inputs, outputs, 1)


def get_trainer_class():
    return nnUNetTrainer_own
"""


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def change(model: Path, change_it) -> None:
    """Rewrite the checkpoint of fold 0."""
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    change_it(checkpoint)
    torch.save(checkpoint, path)


def test_a_checkpoint_of_nnunet_itself_loads_with_its_numpy_numbers(tiny_run):
    path = tiny_run / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint = read_checkpoint(path)
    assert checkpoint["_best_ema"] == pytest.approx(0.8)
    model = load_model(tiny_run, ["0"])
    assert model.trainer == "nnUNetTrainer"
    assert model.mirror_axes == (0, 1, 2)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path):
    model = write_model(tmp_path / "model")
    mark = tmp_path / "executed"
    change(model, lambda checkpoint: checkpoint.update(extra=Payload(mark)))
    with pytest.raises(TrainingError, match=r"fold_0/checkpoint_final\.pth: damaged, or holds more than weights"):
        load_model(model, ["0"])
    assert not mark.exists()


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_checkpoint_cut_short_is_one_error(tmp_path, size):
    model = write_model(tmp_path / "model")
    path = model / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TrainingError, match="damaged"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_of_nnunet_is_said_so(tmp_path):
    model = write_model(tmp_path / "model")
    change(model, lambda checkpoint: checkpoint.pop("init_args"))
    with pytest.raises(TrainingError, match="not a checkpoint of nnU-Net: it lacks one of"):
        load_model(model, ["0"])


def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path):
    model = write_model(tmp_path / "model")
    other = write_model(tmp_path / "other", labels={"background": 0, "wm": 1, "gm": 2})
    shutil.copyfile(other / "fold_0" / "checkpoint_final.pth", model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(TrainingError, match=r"does not fit the network of plans\.json: size mismatch for decoder"):
        load_model(model, ["0"])


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "torch.load",
        "torch.nn.modules.module.torch.load",
        "dynamic_network_architectures.architectures.unet.torch.load",
        "antigravity",
        3,
    ],
)
@pytest.mark.parametrize("key", ["network_class_name", "conv_op"])
def test_plans_that_name_anything_but_a_network_class_are_refused(tmp_path, key, name):
    model = write_model(tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    (architecture if key == "network_class_name" else architecture["arch_kwargs"])[key] = name
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(TrainingError, match=f"{key} = .* is not a network class"):
        load_model(model, ["0"])


def test_a_trainer_file_that_leaves_the_network_alone_is_never_executed(tmp_path):
    model = write_model(tmp_path / "model", trainer="nnUNetTrainer_long")
    (model / "trainer_class.py").write_text(EPOCHS_ONLY)
    assert load_model(model, ["0"]).trainer == "nnUNetTrainer_long"


def test_a_trainer_that_builds_its_own_network_runs_only_when_allowed(tmp_path):
    model = write_model(tmp_path / "model", trainer="nnUNetTrainer_own")
    (model / "trainer_class.py").write_text(OWN_NETWORK)
    own = torch.nn.Conv3d(1, 2, 1).state_dict()
    change(model, lambda checkpoint: checkpoint.update(network_weights=own))
    with pytest.raises(
        TrainingError, match=r"trainer_class\.py: trainer nnUNetTrainer_own builds its network"
    ) as caught:
        load_model(model, ["0"])
    assert "--allow-code" in caught.value.hint
    assert isinstance(load_model(model, ["0"], allow_code=True).network, torch.nn.Conv3d)


def test_a_trainer_of_nnunet_that_builds_its_own_network_is_used(tmp_path):
    builder = find_builder("nnUNetTrainerBN", tmp_path / "trainer_class.py", allow_code=False)
    assert builder is not None
    assert builder.__name__ == "nnUNetTrainerBN"
    assert find_builder("nnUNetTrainer_250epochs", tmp_path / "trainer_class.py", allow_code=False) is None


def test_an_unknown_trainer_is_an_error_with_a_way_out(tmp_path):
    model = write_model(tmp_path / "model", trainer="nnUNetTrainerUnheardOf")
    with pytest.raises(TrainingError, match="'nnUNetTrainerUnheardOf' is not one of nnU-Net's, and no"):
        load_model(model, ["0"])


def test_rounding_to_half_keeps_shared_tensors_shared_and_refuses_what_overflows(tmp_path):
    shared, counter = torch.tensor([1.0001, -3.0]), torch.tensor(7)
    rounded = rounded_to_half({"a": shared, "b": shared, "n": counter}, tmp_path)
    assert rounded["a"].data_ptr() == rounded["b"].data_ptr() != shared.data_ptr()
    assert rounded["a"].tolist() == [1.0, -3.0]
    assert rounded["n"] is counter
    with pytest.raises(TrainingError, match="big is too large for 16 bits"):
        rounded_to_half({"big": torch.tensor([1e6])}, tmp_path)


@pytest.mark.parametrize(("name", "text"), [("plans.json", "{"), ("dataset.json", None), ("dataset.json", "[]")])
def test_a_folder_that_is_no_model_is_one_error(tmp_path, name, text):
    model = write_model(tmp_path / "model")
    (model / name).unlink()
    if text is not None:
        (model / name).write_text(text)
    with pytest.raises(TrainingError, match=name):
        load_model(model, ["0"])
