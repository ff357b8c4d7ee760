"""Classifiers whose net is an encoder of pre-training: from its weights, in three modes, and from scratch."""

import pytest
import torch
from fixtures_classification import SETTINGS, write_task
from pydantic import ValidationError
from test_finetuning import SMALL, checkpoint

from trainers.classification import predict as prediction
from trainers.classification import train as training
from trainers.classification.config import ClassificationSettings
from trainers.classification.dataset import read_dataset
from trainers.classification.nets import network, planned_net
from trainers.classification.plan import Plan, PlannedLabel, PlannedNet
from trainers.classification.pretrained import Beginning
from trainers.core import environment
from trainers.core.errors import TrainingError
from trainers.core.files import read_json
from trainers.core.progress import Progress
from trainers.nets import resenc

OPTIONS = {
    "resenc": {"features": [4, 8, 8], "blocks": [1, 1, 2]},
    "primus": {"width": 24, "depth": 2, "heads": 2},
}
LABELS = (PlannedLabel(name="A", values=("no", "yes")), PlannedLabel(name="B", values=("x", "y", "z")))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    for module in (environment, training, prediction):
        monkeypatch.setattr(module, "cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"))


def trained(task, run, file, **changes):
    """Train fold 0 for two steps; return the folder of the fold."""
    settings = {**SETTINGS, "epochs": 1, "iterations": 2, "augment": False, "lr": 1e-2, "warmup": 0, **changes}
    if file:
        settings["start_from"] = "0" * 64
    job = {
        "dataset": str(task), "run": str(run), "cache": str(run.parent / "cache"), "settings": settings,
        "splits": None, "config": {"dataset": {"hash": ""}}, "dataset_json": {}, "pretrained": file and str(file),
    }  # fmt: skip
    assert training.run(job)["trained"] == [0]
    return run / "fold_0"


def weights(fold):
    return torch.load(fold / "checkpoint_final.pth", weights_only=True)["network_weights"]


def plan(size=(24, 24, 24), **net):
    return Plan.model_construct(
        channels=("MRI",), labels=LABELS, image_size=size, net=PlannedNet.model_validate(net), roi_classes=1
    )


@pytest.mark.parametrize("encoder", ["resenc", "primus"])
def test_each_mode_lets_change_what_it_says(task, tmp_path, encoder):
    file = checkpoint(tmp_path, encoder, trainer="mreg_mae")
    state = torch.load(file, weights_only=True)["network_weights"]
    block, stem = ("encoder.stages.", "encoder.stem.") if encoder == "resenc" else ("eva.blocks.", "down_projection.")
    changed = {}
    for mode in ("linear", "frozen", "full"):
        fold = trained(task, tmp_path / mode, file, fine_tuning=mode)
        found, report = weights(fold), read_json(fold / "pretrained.json")
        assert report["fine_tuning"] == mode
        assert all(
            key.startswith(("encoder.stages.", "encoder.stem.", "eva.", "down_projection.")) for key in report["used"]
        )
        assert {key for key in found if key.startswith("heads.")} <= set(report["new"])
        (how,) = {value for key, value in report["changed"].items() if "pos_embed" not in key}
        assert how == "repeated for 1 channels, 0 for the mask"
        same = [torch.equal(found[key], state[key]) for key in found if key.startswith(block)]
        first = next(found[key] for key in found if key.startswith(stem) and found[key].ndim == 5)
        changed[mode] = (not all(same), bool(first[:, 1].any()), report["learning"])
        assert not (fold / "checkpoint_latest.pth").exists()
    assert [changed[mode][:2] for mode in ("linear", "frozen", "full")] == [(False, False), (False, True), (True, True)]
    assert changed["linear"][2] < changed["frozen"][2] < changed["full"][2]
    run = tmp_path / "full"
    net = read_json(run / "plans.json")["net"]
    assert net["encoder"] == encoder
    assert OPTIONS[encoder].items() <= net["options"].items()
    assert read_json(run / "plans.json")["transpose"] == [0, 1, 2]
    case = read_dataset(task).cases[0]
    judged = next(iter(read_json(run / "fold_0" / "validation.json")["cases"]))
    case = read_dataset(task).case(judged)
    answer = prediction.predict(str(run), [str(path) for path in case.images], str(case.mask))
    said = read_json(run / "validation.json")["cases"][judged]["labels"]
    assert answer == [said["Contrast"]["probabilities"][1], said["Height"]["probabilities"]]


def test_from_scratch_is_the_same_net_without_the_weights(task, tmp_path):
    file = checkpoint(tmp_path, "resenc", trainer="mreg_mae")
    fold = trained(task, tmp_path / "scratch", file, from_scratch=True, fine_tuning="linear")
    own = trained(task, tmp_path / "own", None, encoder="resenc", encoder_options=OPTIONS["resenc"])
    assert not (fold / "pretrained.json").exists()
    one, two = weights(fold), weights(own)
    assert all(torch.equal(one[key], two[key]) for key in one)
    state = torch.load(file, weights_only=True)["network_weights"]
    assert not any(torch.equal(one[key], state[key]) for key in one if key.endswith("conv.weight"))
    size = (fold / "checkpoint_final.pth").stat().st_size
    assert size < 1.3 * 4 * sum({value.data_ptr(): value.numel() for value in one.values()}.values()) + 60_000


@pytest.mark.parametrize("encoder", ["resenc", "primus"])
def test_at_first_the_encoder_sees_the_image_as_in_pre_training_and_nothing_of_the_mask(tmp_path, encoder):
    file = checkpoint(tmp_path, encoder, trainer="mreg_mae")
    settings = ClassificationSettings(start_from="x")
    beginning = Beginning.of(file, settings)
    net = network(plan(**beginning.net.model_dump()))
    beginning.start(net, tmp_path / "fold_0", Progress())
    image, masks = torch.randn(2, 1, 24, 24, 24), torch.rand(2, 1, 24, 24, 24)
    net.eval()
    with torch.no_grad():
        plain, masked = (net(torch.cat([image, mask], 1)) for mask in (torch.zeros_like(masks), masks))
        assert all(torch.equal(a, b) for a, b in zip(plain, masked, strict=True))
        if encoder == "resenc":
            alone = resenc.encoder(SMALL["resenc"])
            own = {key.removeprefix("encoder."): value for key, value in beginning.pretrained.weights.items()}
            alone.load_state_dict({key: own[key] for key in alone.state_dict()})
            assert all(size % SMALL["resenc"].reduction == 0 for size in image.shape[2:])
            pairs = zip(alone(image), net.encoder(torch.cat([image, masks], 1)), strict=True)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_images_need_not_fit_the_tokens_and_a_net_says_what_it_cannot_take():
    net = network(plan((20, 17, 9), encoder="primus", options=OPTIONS["primus"]))
    assert net.config.patch == (24, 24, 16)
    assert [tuple(found.shape) for found in net(torch.zeros(2, 2, 20, 17, 9))] == [(2, 2), (2, 3)]
    net = network(plan((20, 3, 3), encoder="resenc", options=OPTIONS["resenc"]))
    assert [tuple(found.shape) for found in net(torch.randn(1, 2, 20, 3, 3))] == [(1, 2), (1, 3)]
    with pytest.raises(TrainingError, match="too small for a ResEnc of 3 stages, which halves them 2 times"):
        network(plan((4, 3, 3), encoder="resenc", options=OPTIONS["resenc"]))
    with pytest.raises(TrainingError, match="encoder resenc has no option 'depth'"):
        network(plan(encoder="resenc", options={"depth": 2}))
    with pytest.raises(TrainingError, match="encoder primus: width 25"):
        network(plan(encoder="primus", options={"width": 25}))


def test_the_large_sizes_are_those_of_pre_training():
    for encoder, name in (("resenc", "features"), ("primus", "width")):
        net = planned_net(ClassificationSettings(encoder=encoder))
        assert name in net.options
    assert planned_net(ClassificationSettings(encoder="resenc")).options["features"] == (32, 64, 128, 256, 320, 320)
    assert planned_net(ClassificationSettings(encoder="primus")).options["depth"] == 16


def test_settings_that_contradict_one_another_are_refused():
    for said, why in (
        ({"start_from": "a", "encoder": "i3d"}, "start_from sets the encoder"),
        ({"start_from": "a", "encoder_options": {"depth": 2}}, "start_from sets the encoder"),
        ({"encoder_options": {"depth": 2}}, "encoder_options are of encoder resenc or primus"),
    ):
        with pytest.raises(ValidationError, match=why):
            ClassificationSettings.model_validate(said)
    rates = [
        ClassificationSettings.model_validate(said).resolved().lr
        for said in (
            {}, {"start_from": "a"}, {"start_from": "a", "fine_tuning": "linear"}, {"encoder": "primus"},
            {"start_from": "a", "from_scratch": True}, {"start_from": "a", "lr": 0.5},
        )
    ]  # fmt: skip
    assert rates == [1e-3, 1e-4, 1e-3, 3e-4, 1e-3, 0.5]
