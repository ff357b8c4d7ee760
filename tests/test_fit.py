"""Weights against what is said of them: the network of the plans, with and without torch, and the manifest."""

import itertools
import json
import random
import sys
import zipfile
from pathlib import Path

import pytest
from check_examples import checkpoint_bytes
from fixtures_run import TRAINER_FOLDER, plans

from registry import workers
from registry.checks import check
from registry.errors import MregError
from registry.findings import Report
from registry.networks import PACKAGE, UnknownNetworkError, shapes

IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]
CHECKPOINT = "fold_0/checkpoint_final.pth"


def architecture(name: str, dimensions: int, stages: int, seed: int, **keywords: object) -> dict:
    """Return a network of small random sizes, as a planner writes it."""
    dice = random.Random(seed)  # noqa: S311 - no secret

    def drawn(*choices: int, count: int = stages) -> list[int]:
        return [dice.choice(choices) for _ in range(count)]

    counts = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    base = {
        "n_stages": stages,
        "features_per_stage": drawn(4, 8),
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [drawn(1, 3, count=dimensions) for _ in range(stages)],
        "strides": [[1] * dimensions, *(drawn(1, 2, count=dimensions) for _ in range(stages - 1))],
        counts[name]: drawn(1, 2, 3),
        "n_conv_per_stage_decoder": drawn(1, 2, count=stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {"network_class_name": f"{PACKAGE}{name}", "arch_kwargs": {**base, **keywords}}


def built(network: dict, inputs: int, heads: int) -> dict[str, tuple[int, ...]]:
    """Return what nnU-Net builds."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name, keywords = network["network_class_name"], dict(network["arch_kwargs"])
    with torch.device("meta"):
        net = get_network_from_plans(name, keywords, IMPORTED, inputs, heads, allow_init=False, deep_supervision=False)
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_shapes_are_those_of_the_network_that_nnunet_builds(name, dimensions):
    norms = [None, f"torch.nn.InstanceNorm{dimensions}d", f"torch.nn.BatchNorm{dimensions}d"]
    for seed, (norm, dropout, bias, stages) in enumerate(
        itertools.product(norms, (None, f"torch.nn.Dropout{dimensions}d"), (True, False), (2, 5))
    ):
        more = {"nonlin_first": seed % 3 == 0} if name == "PlainConvUNet" else {"stem_channels": (None, 6)[seed % 2]}
        network = architecture(
            name, dimensions, stages, seed, norm_op=norm, dropout_op=dropout, conv_bias=bias,
            dropout_op_kwargs={"p": 0.1} if dropout else None, norm_op_kwargs={"affine": seed % 2 == 0}, **more,
        )  # fmt: skip
        assert shapes(network, 2, 3) == built(network, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [{"n_stages": 10**9}, {"n_stages": "2"}, {"n_conv_per_stage": [10**9, 1]}, {"kernel_sizes": [[3], [3]]},
     {"strides": None}, {"nonlin": "torch.nn.PReLU"}, {"norm_op": "torch.nn.GroupNorm"}, {"block": "BottleneckD"},
     {"conv_op": "os.system"}, {"features_per_stage": [4]}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_worked_out_is_said_at_once(changes):
    with pytest.raises(UnknownNetworkError):
        shapes(architecture("PlainConvUNet", 3, 2, 0, **changes), 1, 2)


# ---- the rules


@pytest.fixture
def pack(tiny_package, tmp_path):
    """Build an archive of the tiny run's files, some of them changed, beside a manifest if there is one."""
    with zipfile.ZipFile(tiny_package.archive) as source:
        members = {name.removeprefix(f"{TRAINER_FOLDER}/"): source.read(name) for name in source.namelist()}

    def write(changes: dict[str, bytes], folder: str = TRAINER_FOLDER) -> Path:
        path = tmp_path / tiny_package.archive.name
        with zipfile.ZipFile(path, "w") as target:
            for name, data in {**members, **changes}.items():
                target.writestr(f"{folder}/{name}", data)
        return path

    return write


def messages(report: Report, code: str) -> list[str]:
    return [finding.message for finding in report.findings if finding.code == code]


def other_plans(**architecture: object) -> dict[str, bytes]:
    changed = plans()
    changed["configurations"]["3d_fullres"]["architecture"].update(architecture)
    return {"plans.json": json.dumps(changed).encode()}


def test_weights_of_another_network_are_told_with_the_first_difference(pack):
    keywords = plans()["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    report = check(pack(other_plans(arch_kwargs={**keywords, "features_per_stage": [4, 16]})))
    (message,) = messages(report, "CKPT008")
    assert "encoder.stages.1.0.convs.0.conv.weight is 8 x 4 x 3 x 3 x 3 and should be 16 x 4 x 3 x 3 x 3" in message
    report = check(pack(other_plans(arch_kwargs={**keywords, "n_conv_per_stage": [1, 2]})))
    assert "has encoder.stages.0.0.convs.1.conv.weight" in messages(report, "CKPT008")[0]


def test_a_manifest_that_counts_other_weights_is_told(tiny_package, tmp_path):
    document = json.loads(tiny_package.manifest.read_text())
    archive = tmp_path / tiny_package.archive.name
    archive.write_bytes(tiny_package.archive.read_bytes())
    (tmp_path / tiny_package.manifest.name).write_text(json.dumps(document))
    assert check(archive).findings == ()
    document["models"][0]["weights"]["parameters"] += 1
    (tmp_path / tiny_package.manifest.name).write_text(json.dumps(document))
    assert {finding.code for finding in check(archive).findings} == {"CKPT007"}


def test_a_network_that_only_torch_can_build_is_built_by_another_process(pack):
    trainer = "nnUNetTrainerBN"
    before = set(sys.modules)
    report = check(
        pack({CHECKPOINT: checkpoint_bytes({"trainer_name": trainer})}, f"{trainer}__nnUNetPlans__3d_fullres")
    )
    (message,) = messages(report, "CKPT008")
    assert "running_mean" in message  # the tiny network has no batch normalisation
    assert not [name for name in set(sys.modules) - before if name.startswith(("torch", "nnunetv2"))]


def test_without_torch_nobody_says_anything_of_such_a_network(pack, monkeypatch):
    monkeypatch.setattr(workers, "installed", lambda: False)
    trainer = "nnUNetTrainerBN"
    report = check(
        pack({CHECKPOINT: checkpoint_bytes({"trainer_name": trainer})}, f"{trainer}__nnUNetPlans__3d_fullres")
    )
    assert report.findings == ()


def test_plans_that_name_a_program_start_none(tmp_path):
    canary = tmp_path / "canary"
    document = plans()
    document["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": "subprocess.Popen",
        "arch_kwargs": {"args": ["touch", str(canary)]},
        "_kw_requires_import": [],
    }
    labels = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "sc": 1}, "file_ending": ".nii.gz"}
    job = {"kind": "shapes", "plans": document, "dataset_json": labels, "configuration": "3d_fullres"}
    with pytest.raises(MregError, match="not a network class"):
        workers.call("nnunet", {**job, "trainer": "nnUNetTrainer"})
    assert not canary.exists()


def test_a_stranger_cannot_ask_for_a_network_without_end(pack, monkeypatch):
    monkeypatch.setattr(workers, "call", lambda *_: pytest.fail("built"))
    keywords = {**plans()["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"], "n_stages": 10**9}
    assert check(pack(other_plans(arch_kwargs=keywords))).target
