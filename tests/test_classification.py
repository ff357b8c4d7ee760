"""Training, validation and prediction of classifiers on small pieces of brain."""

import copy
import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
from fixtures_classification import SETTINGS, edit, edit_case, write_task
from torch.nn import functional

from trainers.classification import figures
from trainers.classification import predict as prediction
from trainers.classification import train as training
from trainers.classification.config import ClassificationSettings
from trainers.classification.dataset import read_dataset
from trainers.classification.folds import cases_of, make_splits
from trainers.classification.network import Classifier
from trainers.classification.plan import PlannedLabel
from trainers.classification.task import (
    UNKNOWN,
    Batch,
    ClassificationTask,
    augmentation,
    class_weights,
    mirror_axes,
    with_mask,
)
from trainers.classification.validation import Judged, calibration, report
from trainers.core import environment
from trainers.core.errors import TrainingError
from trainers.core.files import read_json
from trainers.core.progress import Progress
from trainers.core.spawning import in_processes, share
from trainers.core.stopping import Stopping

CPU = torch.device("cpu")
LEARNT = {"epochs": 6, "iterations": 10, "batch_size": 8, "lr": 3e-3, "warmup": 0.5, "max_voxels": 240**3,
          "folds": [0, 1, 2], "checkpoint_minutes": 5}  # fmt: skip


def one_thread(patch):
    torch.set_num_threads(1)
    for module in (environment, training, prediction):
        patch.setattr(module, "cpu_count", lambda: 1)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    one_thread(monkeypatch)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task"))


def job(dataset, run, **more):
    settings = {**SETTINGS, **more.pop("settings", {})}
    about = {"dataset": {"hash": ""}}
    return {"dataset": str(dataset), "run": str(run), "cache": str(run.parent / "cache"), "settings": settings,
            "splits": None, "config": about, "dataset_json": {}, **more}  # fmt: skip


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory):
    """Return the run folder of three folds."""
    with pytest.MonkeyPatch.context() as patch:
        one_thread(patch)
        run = tmp_path_factory.mktemp("trained") / "run"
        answer = training.run(job(task, run, settings=LEARNT))
    assert answer == {"trained": [0, 1, 2], "done_before": [], "stopped": ""}
    return run


def parts(task, tmp_path, **changes):
    """Return plan, resolved settings, store and dataset of a task."""
    settings = ClassificationSettings.model_validate({**SETTINGS, **changes}).resolved()
    dataset = read_dataset(task)
    plan, store = training.prepare(dataset, tmp_path / "cache", settings, Progress())
    return plan, settings, store, dataset


def first_case(task):
    case = read_dataset(task).cases[0]
    return [str(path) for path in case.images], str(case.mask)


def test_a_task_that_can_be_learnt_is_learnt_and_judged_on_held_out_cases(trained):
    document = read_json(trained / "validation.json")
    assert document["folds"] == [0, 1, 2]
    assert len(document["cases"]) == 15  # each once, by the fold that did not see it
    contrast = document["labels"]["Contrast"]
    (about,) = contrast["classes"].values()  # of two classes the second one
    assert about["auc"] > 0.75
    assert about["interval"][0] <= about["auc"] <= about["interval"][1]
    assert (about["positive"], about["negative"]) == (7, 8)
    assert set(document["labels"]["Height"]["classes"]) == {"low", "middle", "high"}
    assert np.sum(document["labels"]["Height"]["confusion"]) == 15
    for name in ("roc.png", "reliability.png", "fold_0/progress.png"):
        assert (trained / name).read_bytes()[:4] == b"\x89PNG"
    assert not list(trained.glob("fold_*/checkpoint_latest.pth"))
    splits = read_json(trained / "splits_final.json")
    assert sorted(case for split in splits for case in split["val"]) == sorted(document["cases"])


def test_validation_only_gives_the_same_bytes(trained, task, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    names = ["validation.json", *(f"fold_{fold}/validation.json" for fold in range(3))]
    before = {name: (run / name).read_bytes() for name in names}
    for name in names:
        (run / name).unlink()
    answer = training.run(job(task, run, settings=LEARNT, validation_only=True))
    assert answer["done_before"] == [0, 1, 2]
    assert {name: (run / name).read_bytes() for name in names} == before
    shutil.rmtree(run / "fold_1")
    with pytest.raises(TrainingError, match="not trained to its end"):
        training.run(job(task, run, settings=LEARNT, validation_only=True))


def test_predict_gives_a_number_for_two_classes_and_a_list_for_more(trained, task):
    images, mask = first_case(task)
    answer = prediction.predict(str(trained), images, mask, folds=["0"])
    binary, several = answer
    assert 0 <= binary <= 1
    assert len(several) == 3
    assert sum(several) == pytest.approx(1)
    assert json.loads(json.dumps(answer)) == answer
    folds = [prediction.predict(str(trained), images, mask, folds=[str(fold)]) for fold in range(3)]
    together = prediction.predict(str(trained), images, mask)
    assert together[0] == pytest.approx(np.mean([fold[0] for fold in folds]))
    assert together[1] == pytest.approx(np.mean([fold[1] for fold in folds], axis=0))


def test_five_identical_folds_say_what_one_says_and_the_worker_says_it_too(trained, task, tmp_path):
    images, mask = first_case(task)
    model = tmp_path / "model"
    for fold in range(5):
        shutil.copytree(trained / "fold_0", model / f"fold_{fold}")
    shutil.copy(trained / "plans.json", model)
    one = prediction.predict(str(model), images, mask, folds=["0"])
    assert prediction.predict(str(model), images, mask) == one
    case = {"name": "a", "images": images, "mask": mask, "output": str(tmp_path / "a.json")}
    answer = prediction.run({"model": str(model), "device": "cpu", "folds": [], "cases": [case]})
    assert answer["files"] == [case["output"]]
    document = read_json(tmp_path / "a.json")
    assert document == answer["cases"]["a"]
    assert document["Contrast"]["probabilities"]["gray matter"] == one[0]
    assert list(document["Height"]["probabilities"].values()) == one[1]


def test_files_that_are_not_what_the_model_takes_are_refused(trained, task, tmp_path):
    images, mask = first_case(task)
    with pytest.raises(TrainingError, match="2 images for a case, and the model takes 1: MRI"):
        prediction.predict(str(trained), images * 2, mask)
    with pytest.raises(TrainingError, match="no mask, and the model was trained with"):
        prediction.predict(str(trained), images)
    model = shutil.copytree(trained, tmp_path / "model")
    plan = read_json(model / "plans.json") | {"roi_classes": 0}
    (model / "plans.json").write_text(json.dumps(plan))
    with pytest.raises(TrainingError, match="a mask, and the model was trained without"):
        prediction.predict(str(model), images, mask)
    (model / "plans.json").write_text(json.dumps(plan | {"channels": ["a", "b"]}))
    with pytest.raises(TrainingError, match="not the weights of"):
        prediction.predict(str(model), images, mask)
    (model / "plans.json").write_text("{}")
    with pytest.raises(TrainingError, match="not a plan of this recipe"):
        prediction.predict(str(model), images, mask)


def test_images_and_masks_unlike_those_of_the_training_are_cut_or_refused(trained, task, tmp_path, capsys):
    (image,), mask = first_case(task)
    files = {"image": image, "mask": mask}
    for name, path in files.items():  # the same head, twice as large
        found = nib.load(path)
        twice = np.kron(np.asarray(found.dataobj), np.ones((2, 2, 2), found.get_data_dtype()))
        files[name] = str(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(twice, found.affine), files[name])
    case = {"name": "a", "images": [files["image"]], "mask": files["mask"], "output": None}
    answer = prediction.run({"model": str(trained), "device": "cpu", "folds": [], "cases": [case]})
    assert sum(answer["cases"]["a"]["Height"]["probabilities"].values()) == pytest.approx(1)
    assert "a: larger than what the model was trained on: " in capsys.readouterr().err
    with pytest.raises(TrainingError, match="not on the grid of"):
        prediction.predict(str(trained), [image], files["mask"])
    found = nib.load(mask)
    empty = str(tmp_path / "empty.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(found.shape, np.uint8), found.affine), empty)
    with pytest.raises(TrainingError, match="the mask is empty"):
        prediction.predict(str(trained), [image], empty)


def test_a_checkpoint_is_inert_and_the_plan_says_what_its_net_is_made_of(trained):
    state = torch.load(trained / "fold_0" / "checkpoint_final.pth", weights_only=True)
    plan = read_json(trained / "plans.json")
    assert plan["net"] == {
        "encoder": "i3d", "options": {}, "width": 0.125, "norm": "batch", "pool": "global", "dropout": 0.0,
    }  # fmt: skip
    net = Classifier.load(trained, ["0"]).nets["0"]
    weights = dict(net.named_parameters())
    assert all(torch.equal(weights[name], state["network_weights"][name]) for name in weights)


def test_the_loss_is_the_sum_of_the_labels_and_what_is_not_known_counts_nothing(task, tmp_path):
    plan, settings, store, dataset = parts(task, tmp_path, class_weights=False, augment=False)
    made = ClassificationTask(plan, settings, store, dataset.cases, (), device=CPU)
    made.module.eval()
    batch = next(made.batches(0, 0))
    assert batch.images.shape == (4, 2, *plan.image_size)
    assert set(batch.images[:, 1].unique().tolist()) <= {0.0, 0.5}  # the mask: K / (K + 1)
    made.module.requires_grad_(False)
    losses = made.losses(made.module, batch)
    logits = made.module(batch.images)
    wanted = sum(functional.cross_entropy(logits[n], batch.targets[:, n]) for n in range(2))
    assert float(losses["loss"]) == pytest.approx(float(wanted), rel=1e-5)
    assert set(losses) == {"loss", "loss_Contrast", "loss_Height"}
    hidden = batch.targets.clone()
    hidden[0, 1] = hidden[1, 1] = UNKNOWN
    less = made.losses(made.module, Batch(images=batch.images, targets=hidden, totals=(4, 2)))
    kept = functional.cross_entropy(logits[1][2:], batch.targets[2:, 1])
    assert float(less["loss_Height"]) == pytest.approx(float(kept), rel=1e-5)
    nothing = made.losses(
        made.module, Batch(images=batch.images, targets=torch.full_like(hidden, UNKNOWN), totals=(0, 0))
    )
    assert float(nothing["loss"]) == 0


def test_rare_classes_weigh_more_and_absent_ones_nothing(task, tmp_path):
    cases = read_dataset(task).cases[:7]  # Contrast 0 1 0 1 0 1 0, Height 0 1 2 0 1 2 0
    contrast, height = class_weights(cases, (2, 4))
    assert contrast.tolist() == pytest.approx([7 / 8, 7 / 6])
    assert height.tolist() == pytest.approx([7 / 9, 7 / 6, 7 / 6, 0])
    assert sum(height[case.targets[1]] for case in cases) == pytest.approx(7)
    plan, settings, store, _ = parts(task, tmp_path, class_weights=True, label_smoothing=0.1, augment=False)
    made = ClassificationTask(plan, settings, store, cases, (), device=CPU)
    made.module.eval().requires_grad_(False)
    batch = next(made.batches(0, 0))
    wanted = functional.cross_entropy(
        made.module(batch.images)[0], batch.targets[:, 0], weight=made.weights[0], label_smoothing=0.1
    )
    assert float(made.losses(made.module, batch)["loss_Contrast"]) == pytest.approx(float(wanted), rel=1e-5)


def test_unknown_values_a_label_of_one_class_and_a_class_that_a_fold_lacks_are_trained_and_judged(tmp_path):
    root = write_task(tmp_path / "raw", masks=False)
    document = json.loads((root / "dataset.json").read_text())
    for number, case in enumerate(document["training"]):
        case |= {"Contrast": 0, "Height": 2 if number == 14 else number % 2}  # "high" is held out, and "middle" not
    edit(root, training=document["training"])
    edit_case(root, 3, Height="null")
    names = [case.name for case in read_dataset(root).cases]
    held = [3, 12, 14]
    split = {"train": [n for i, n in enumerate(names) if i not in held], "val": [names[i] for i in held]}
    run = tmp_path / "run"
    settings = {"profile": "auc23", "epochs": 1, "iterations": 1, "class_weights": True}
    training.run(job(root, run, settings=settings, splits=[split]))
    found = read_json(run / "fold_0" / "validation.json")["labels"]
    (contrast,) = found["Contrast"]["classes"].values()
    assert (contrast["auc"], contrast["reason"]) == (None, "no case of this class")
    height = found["Height"]
    assert (height["cases"], height["unknown"]) == (2, 1)
    assert height["classes"]["middle"]["reason"] == "no case of this class"
    assert height["classes"]["high"]["auc"] in (0, 1)
    assert height["macro_auc"] == np.mean([height["classes"][name]["auc"] for name in ("low", "high")])
    assert json.loads((run / "fold_0" / "metrics.jsonl").read_text())["learning_rate"] == 0.01
    images = [str(path) for path in read_dataset(root).cases[0].images]
    assert 0 <= prediction.predict(str(run), images)[0] <= 1


def judged(targets, found, **more):
    return [
        Judged(name=f"c{n}", fold=0, group=f"c{n}", targets=(target,), probabilities=(tuple(p),), **more)
        for n, (target, p) in enumerate(zip(targets, found, strict=True))
    ]


def test_figures_equal_those_by_hand(trained):
    plan = Classifier.load(trained, ["0"]).plan.model_copy(
        update={"labels": (PlannedLabel(name="A", values=("no", "yes")),)}
    )
    said = [0.1, 0.4, 0.35, 0.8]
    document = report(plan, judged([0, 0, 1, 1], [(1 - p, p) for p in said]), seed=1)
    label = document["labels"]["A"]
    assert label["classes"]["yes"]["auc"] == 0.75  # three of four pairs stand in order
    assert label["accuracy"] == label["balanced_accuracy"] == 0.75
    assert label["confusion"] == [[2, 0], [1, 1]]
    assert label["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    # bins of certainty: 0.6 and 0.65 (one right), 0.8, 0.9
    assert label["ece"] == pytest.approx((abs(0.5 - 0.625) * 2 + 0.2 + 0.1) / 4)
    unknown = report(plan, judged([None, 1], [(0.5, 0.5)] * 2))["labels"]["A"]
    assert (unknown["cases"], unknown["unknown"]) == (1, 1)
    assert unknown["classes"]["yes"]["reason"] == "no case of another class"
    none = report(plan, judged([None], [(0.5, 0.5)]))["labels"]["A"]
    assert none["accuracy"] is none["brier"] is none["macro_auc"] is None
    three = calibration(np.array([0, 2]), np.array([[1.0, 0, 0], [0, 0.5, 0.5]]))
    assert three["brier"] == pytest.approx(0.25)


def test_figures_are_drawn_whatever_the_classes_are_called(trained, tmp_path):
    plan = Classifier.load(trained, ["0"]).plan.model_copy(
        update={"labels": tuple(PlannedLabel(name=f"label {n}", values=("no", "a class of " * 9)) for n in range(3))}
    )
    cases = [
        Judged(name=f"c{n}", fold=0, group=f"c{n}", targets=(n % 2, None, 1), probabilities=((0.4, 0.6),) * 3)
        for n in range(4)
    ]
    figures.draw(tmp_path, plan, cases, report(plan, cases, seed=1))
    assert {path.name for path in tmp_path.iterdir()} == {"roc.png", "confusion.png", "reliability.png"}


def test_folds_keep_classes_even_and_groups_together(task, tmp_path):
    dataset = read_dataset(task)
    splits = make_splits(dataset, 5, 12345)
    assert splits == make_splits(dataset, 5, 12345) != make_splits(dataset, 5, 1)
    for split in splits:
        validation = [dataset.case(name).targets for name in split["val"]]
        assert len(validation) == 3
        assert {contrast for contrast, _ in validation} == {0, 1}
        assert len({height for _, height in validation}) >= 2
    root = shutil.copytree(task, tmp_path / task.name)
    for number in range(15):
        edit_case(root, number, group=f"sub-{number // 3}")
    grouped = read_dataset(root)
    for split in make_splits(grouped, 5, 12345):
        sides = [{grouped.case(name).group for name in split[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
    with pytest.raises(TrainingError, match="5 groups cannot be split into 6 folds"):
        make_splits(grouped, 6, 1)
    assert len(cases_of(dataset, splits, "all")[0]) == 15
    with pytest.raises(TrainingError, match="fold 5 does not exist"):
        cases_of(dataset, splits, 5)


def test_labels_that_know_sides_are_not_mirrored_left_to_right(trained):
    plan = Classifier.load(trained, ["0"]).plan  # z, y, x of LPI
    assert mirror_axes(plan, None) == (0, 1, 2)
    sided = plan.model_copy(update={"labels": (PlannedLabel(name="Side", values=("left", "right")),)})
    assert mirror_axes(sided, None) == (0, 1)
    assert mirror_axes(sided, ("RL",)) == (2,)
    turned = sided.model_copy(update={"orientation": "AIL", "transpose": (2, 0, 1)})  # z: RL, y: IS, x: AP
    assert mirror_axes(turned, None) == (0, 2)
    thick = plan.model_copy(update={"image_size": (8, 40, 40)})
    settings = ClassificationSettings().resolved()
    assert augmentation(thick, settings).flat
    assert not augmentation(plan, settings).flat
    assert augmentation(plan, settings).p_elastic == 0
    baseline = ClassificationSettings(profile="auc23").resolved()
    assert augmentation(plan, baseline).p_elastic == 0.2
    assert augmentation(thick, baseline).p_elastic == 0


def test_the_mask_channel_is_a_share_of_its_classes():
    images, masks = torch.zeros(1, 1, 1, 1, 4), torch.tensor([[[[[-1, 0, 1, 2]]]]], dtype=torch.int16)
    assert with_mask(images, masks, 2)[0, 1].ravel().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3])
    assert with_mask(images, masks.clamp(max=1), 0)[0, 1].max() == 0.5  # no regions: all ones


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


class Killed(BaseException):
    """Ends a training as SIGKILL does: nothing is written any more."""


def test_killed_stopped_and_resumed_it_gives_the_same_losses_and_weights(task, tmp_path, monkeypatch):
    training.run(job(task, tmp_path / "straight"))
    steps, losses = [], ClassificationTask.losses

    def interrupted(self, module, batch):
        steps.append(batch)
        if len(steps) == 5:  # the second step of the second epoch
            raise Killed
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGUSR1)
        return losses(self, module, batch)

    monkeypatch.setattr(ClassificationTask, "losses", interrupted)
    todo = job(task, tmp_path / "resumed")
    with pytest.raises(Killed):
        training.run(todo)
    assert training.run(todo)["stopped"] == "SIGUSR1"
    assert training.run(todo)["trained"] == [0]
    assert len(steps) == 3 + 2 + 2 + 4  # of nine: the step before the kill again, none after the stop
    straight, resumed = (tmp_path / name / "fold_0" for name in ("straight", "resumed"))
    assert lines(resumed) == lines(straight)
    one, two = weights(straight), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert read_json(resumed / "validation.json") == read_json(straight / "validation.json")


def weights(fold):
    return torch.load(fold / "checkpoint_final.pth", weights_only=True)["network_weights"]


def join_on_gpus(_):
    torch.cuda.device_count = lambda: 0
    with share(torch.device("cuda")):
        pass


@pytest.mark.long
def test_two_processes_take_the_steps_of_one(task, tmp_path):
    # Of the default profile, with batch norm and augmentation. Not for long: AdamW makes much of the last bits.
    for name, gpus in (("one", 1), ("two", 2)):
        todo = job(task, tmp_path / name, settings={"epochs": 1}, gpus=gpus)
        assert training.run(todo)["trained"] == [0]
    one, two = (tmp_path / name / "fold_0" for name in ("one", "two"))
    (first,), (second,) = lines(one), lines(two)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    assert first["val_loss"] == pytest.approx(second["val_loss"], rel=1e-5)
    one, two = weights(one), weights(two)
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-3) for name in one)
    means = [name for name in one if name.endswith("running_mean")]
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in means)
    with pytest.raises(TrainingError, match="--gpus 1: this machine has 0"):  # what goes wrong there is told here
        in_processes(1, join_on_gpus, (), Stopping())


def test_a_step_has_a_case_for_each_process(task, tmp_path):
    with pytest.raises(TrainingError, match="a step of 4 cases does not split over 5 processes"):
        training.run(job(task, tmp_path / "run", gpus=5))


def test_test_cases_are_judged_by_all_folds_together(trained, task, tmp_path):
    root = shutil.copytree(task, tmp_path / task.name)
    for side in ("images", "labels"):
        shutil.copytree(root / f"{side}Tr", root / f"{side}Ts")
    document = json.loads((root / "dataset.json").read_text())
    tests = [copy.deepcopy(case) for case in document["training"][:4]]
    edit(root, test=tests)
    about = {"model": str(trained), "device": "cpu", "folds": [], "dataset": str(root), "part": "test"}
    found = prediction.evaluate(about)
    assert found["folds"] == ["0", "1", "2"]
    assert found["labels"]["Contrast"]["cases"] == 4
    edit(root, test=[case["image"] for case in tests])
    with pytest.raises(TrainingError, match="no labelled case in test"):
        prediction.evaluate(about)
