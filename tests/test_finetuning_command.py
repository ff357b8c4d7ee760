"""mreg train --from: nnU-Net starts from a pre-trained encoder, and from scratch with the same settings."""

import json
from pathlib import Path

import pytest
import torch
from command import run_mreg
from fixtures_encoder import LABELLED, SEGMENTATION, write_segmentation_repo
from fixtures_encoder import NAME as ENCODER
from fixtures_release import TAG, add_repo, publish
from test_finetuning import checkpoint

from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.manifest import read as read_manifest
from registry.stores.folder import FolderStore


@pytest.fixture(scope="module")
def repo(test_data, tmp_path_factory):
    """Return a repo with three subjects' images."""
    return write_segmentation_repo(tmp_path_factory.mktemp("finetuned") / SEGMENTATION, test_data)


def trained(repo: Path, *flags: str) -> tuple[dict, dict, Path]:
    done = run_mreg("train", "--json", *flags, cwd=repo)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    state = torch.load(run / "fold_0" / "checkpoint_final.pth", weights_only=False)
    return state["network_weights"], json.loads((run / "config.json").read_text()), run


@pytest.mark.long
def test_a_released_encoder_that_is_frozen_stays_and_a_network_from_scratch_is_alike_but_for_the_weights(
    repo, tiny_encoder, tiny_encoder_package, tmp_path, monkeypatch
) -> None:
    store = FolderStore(tmp_path / "registry")
    store.root.mkdir()
    add_repo(store, tmp_path / "first-commit", ENCODER)
    publish(store, TAG, *tiny_encoder_package, name=ENCODER)
    monkeypatch.setenv("MREG_REGISTRY", store.location)
    released, file = f"{ENCODER}@{TAG}", tiny_encoder / "fold_all" / "checkpoint_final.pth"
    pretrained = torch.load(file, weights_only=True)["network_weights"]
    weights, config, run = trained(repo, "--from", released, "--set", "fine_tuning=frozen")
    assert config["start"] == {
        "name": ENCODER, "tag": TAG, "asset": tiny_encoder_package.archive.name,
        "sha256": sha256(tiny_encoder_package.archive), "checkpoint": config["settings"]["start_from"],
    }  # fmt: skip
    packed = run_mreg("package", run, "--tag", TAG, "-o", tmp_path / "packed", "--no-reference", cwd=repo)
    assert packed.returncode == 0, packed.stderr
    (entry,) = read_manifest(tmp_path / "packed" / MANIFEST_NAME).models
    assert entry.start.model_dump() == config["start"]
    report = json.loads((run / "fold_0" / "pretrained.json").read_text())
    assert len(report["used"]) > 20
    assert all(torch.equal(weights[key], pretrained[key]) for key in report["used"])
    assert len(config["settings"]["start_from"]) == 64
    assert str(tmp_path) not in json.dumps(config)
    plan = json.loads((run / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert plan["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    assert plan["patch_size"] == [16, 16, 16]
    scratch, _, other = trained(repo, "--from", released, "--from-scratch")
    assert other != run
    assert {key: value.shape for key, value in scratch.items()} == {key: v.shape for key, v in weights.items()}
    assert not any(torch.equal(scratch[key], pretrained[key]) for key in report["used"] if key.endswith("conv.weight"))
    rates = [
        json.loads(line)["learning_rate"] for line in (other / "fold_0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rates == pytest.approx([1e-2, 1e-2 * 0.5**0.9])


@pytest.mark.long
def test_a_transformer_is_fine_tuned_used_and_packed_and_check_says_who_cannot_load_it(repo, tmp_path) -> None:
    file = checkpoint(tmp_path, "primus")
    weights, config, run = trained(repo, "--from", str(file))
    assert config["trainer"] == "nnUNetTrainer_Primus"
    report = json.loads((run / "fold_0" / "pretrained.json").read_text())
    assert set(report["used"]) == {key for key in weights if key.startswith(("eva.", "down_projection."))}
    assert report["changed"]["eva.pos_embed"].endswith("resized from (4, 4, 4) to (2, 2, 2) tokens")
    (line, _) = (json.loads(text) for text in (run / "fold_0" / "metrics.jsonl").read_text().splitlines())
    assert line["learning_rate"] == pytest.approx(1e-4)
    images = sorted((repo / "data" / "raw" / LABELLED / "imagesTr").glob("*.nii.gz"))[:1]
    done = run_mreg("predict", run, *images, "-o", tmp_path / "out", "--device", "cpu", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
    scratch, _, other = trained(repo, "--from", str(file), "--from-scratch")
    assert other != run
    assert scratch.keys() == weights.keys()
    packed = run_mreg("package", run, "--tag", "r20261121", "-o", tmp_path / "packed", "--no-reference", cwd=repo)
    assert packed.returncode == 0, packed.stderr
    (archive,) = (tmp_path / "packed").rglob("*.zip")
    said = json.loads(run_mreg("check", archive, "--json", cwd=repo).stdout)
    assert [f["code"] for f in said["findings"] if f["level"] == "error"] == ["TRAINER001"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--from-scratch",), "from_scratch is for start_from"),
        (("--from", "data"), "no pre-trained encoder"),
        (("--set", "start_from=nowhere.pth"), "nowhere.pth: no pre-trained encoder"),
        pytest.param(("--from", "PRIMUS", "--set", "patch_size=[20,16,16]"), "divisible by 8", marks=pytest.mark.long),
        (("--from", "PRIMUS", "--set", "trainer=nnUNet_Primus_M_Trainer"), "does not train the Primus"),
        pytest.param(("--from", "RESENC", "--set", "patch_size=[18,16,16]"), "divisible by 4", marks=pytest.mark.long),
        (("--from", "RESENC", "--set", "configuration=2d"), "do not go with it"),
        pytest.param(("--from", "model.toml"), "damaged", marks=pytest.mark.long),
    ],
)
def test_what_cannot_be_fine_tuned_is_told(repo, tmp_path, flags, message) -> None:
    made = {name: str(checkpoint(tmp_path, name.lower())) for name in ("PRIMUS", "RESENC") if name in flags}
    done = run_mreg("train", *(made.get(flag, flag) for flag in flags), cwd=repo)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
