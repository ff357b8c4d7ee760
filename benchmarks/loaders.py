"""Do both loaders teach the same? The loss of one trained network, which stays as it is, on what they give.

    python benchmarks/loaders.py WORK [--patches N] [--batches N]

WORK is the folder of `accuracy.py`, whose first training of grey and white matter is the network and whose plans and
preprocessed cases are read. First the same patches, as nnU-Net's loader cuts them, go through nnU-Net's transforms and
through ours: all of them as a training draws them, then each alone and always. Then whole batches of both loaders,
patches that lie anywhere and patches on foreground apart. Prints differences of the mean loss with their standard
error; noise stays within about two of them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
ALONE = {
    "noise": ("GaussianNoiseTransform", "p_noise"),
    "blur": ("GaussianBlurTransform", "p_blur"),
    "brightness": ("MultiplicativeBrightnessTransform", "p_brightness"),
    "contrast": ("ContrastTransform", "p_contrast"),
    "resolution": ("SimulateLowResolutionTransform", "p_low_resolution"),
    "inverted gamma": ("GammaTransform 1", "p_inverted_gamma"),
    "gamma": ("GammaTransform 2", "p_gamma"),
    "mirroring": ("MirrorTransform", "mirror"),
}


def trainer_of(work: Path) -> Any:
    """Return nnU-Net's own trainer with the weights of the first training of tissue."""
    import accuracy
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from trainers.core.progress import Progress
    from trainers.segmentation.config import SegmentationSettings
    from trainers.segmentation.prepare import prepare

    torch.set_num_threads(1)
    task, cache = accuracy.TISSUE, work / "cache" / accuracy.TISSUE.name
    dataset = next((work / "slabs").glob("Dataset*"))
    os.environ.update(accuracy.environment(cache, work / "runs" / "loaders"))
    settings = SegmentationSettings(
        configuration="2d", patch_size=task.patch, batch_size=task.batch, features=task.features
    )
    prepared = prepare(dataset, cache, settings, 1, Progress(io.StringIO()))
    trainer = nnUNetTrainer(
        {**prepared.plans, "continue_training": False}, "2d", 0, prepared.dataset_json, torch.device("cpu")
    )
    trainer.initialize()
    (weights,) = (work / "runs").glob("tissue-ours-fold0-seed0/fold_0/checkpoint_final.pth")
    trainer.network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu")["network_weights"])
    trainer.network.eval()
    split = accuracy.splits_of(task, dataset)[0]
    trainer.do_split = lambda: (split["train"], split["val"])
    return trainer


def nnunet_loader(trainer: Any, transforms: Any) -> Any:
    """Return nnU-Net's loader of training patches, in this process."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    _, _, initial, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return nnUNetDataLoader(
        trainer.dataset_class(trainer.preprocessed_dataset_folder, trainer.do_split()[0]),
        trainer.batch_size, initial, trainer.configuration_manager.patch_size, trainer.label_manager,
        oversample_foreground_percent=trainer.oversample_foreground_percent, transforms=transforms,
    )  # fmt: skip


def nnunet_transforms(trainer: Any) -> Any:
    """Return nnU-Net's training transforms."""
    rotation, dummy_2d, _, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return trainer.get_training_transforms(
        trainer.configuration_manager.patch_size, rotation, trainer._get_deep_supervision_scales(), mirror, dummy_2d,  # noqa: SLF001
        use_mask_for_norm=[False], foreground_labels=trainer.label_manager.foreground_labels,
    )  # fmt: skip


def chains(transforms: list[Any], full: Any) -> dict[str, tuple[list[Any], Any]]:
    """Return pairs of nnU-Net's transforms and our augmentation: all, and each alone."""
    from trainers.segmentation.data_path import OFF

    nothing = replace(OFF, patch=full.patch)
    names: list[str] = []
    for transform in transforms:
        name = type(getattr(transform, "transform", transform)).__name__
        names.append(f"{name} {sum(n.startswith(name) for n in names) + 1}" if name == "GammaTransform" else name)
    named = dict(zip(names, transforms, strict=True))
    rest = [named["RemoveLabelTransform"], named["DownsampleSegForDSTransform"]]

    def spatial(rotation: float, scaling: float) -> Any:
        changed = copy.copy(named["SpatialTransform"])
        changed.p_rotation, changed.p_scaling = rotation, scaling
        return changed

    found = {
        "all": (transforms, full),
        "rotation": ([spatial(1, 0), *rest], replace(nothing, p_rotation=1, rotation=full.rotation)),
        "scaling": ([spatial(0, 1), *rest], replace(nothing, p_scaling=1, scaling=full.scaling)),
    }
    for name, (kind, field) in ALONE.items():
        inner = getattr(named[kind], "transform", named[kind])
        off = {key: value for key, value in vars(nothing).items() if value == 0 or key == "mirror"}
        ours = replace(full, **{**off, field: full.mirror if field == "mirror" else 1})
        found[name] = ([spatial(0, 0), inner, *rest], ours)
    return found


def loss(trainer: Any, data: Any, target: Any, sample: int | None = None) -> float:
    """Return the network's loss on a batch, or on one sample of it."""
    import torch

    part = slice(None) if sample is None else slice(sample, sample + 1)
    with torch.no_grad():
        return float(trainer.loss(trainer.network(data[part]), [level[part] for level in target]))


def same_patches(trainer: Any, batches: int) -> None:
    """Compare the augmentations on the same patches and print a line for each."""
    import torch

    from trainers.data.augment import Source, augment
    from trainers.segmentation.data_path import augmentation_of, targets_of

    patch = tuple(trainer.configuration_manager.patch_size)
    transforms = nnunet_transforms(trainer).transforms
    targets = targets_of(None, trainer._get_deep_supervision_scales())  # noqa: SLF001
    pairs = chains(transforms, augmentation_of(transforms, patch))
    loader, rng = nnunet_loader(trainer, None), np.random.default_rng(1)
    generator = torch.Generator().manual_seed(1)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for _ in range(batches):
        raw = loader.generate_train_batch()
        images, labels = (torch.as_tensor(np.asarray(raw[key])) for key in ("data", "target"))
        for name, (chain, augmentation) in pairs.items():
            theirs = []
            for image, label in zip(images, labels, strict=True):
                sample = {"image": image.clone(), "segmentation": label.clone()}
                for transform in chain:
                    sample = transform(**sample)
                theirs.append(sample)
            levels = [torch.stack(level) for level in zip(*(s["segmentation"] for s in theirs), strict=True)]
            draws = [augmentation.draw(rng, images.shape[1]) for _ in images]
            sources = []
            for image, label, draw in zip(images, labels, draws, strict=True):
                box = draw.source_box(patch, image.shape[1:])
                cut = (slice(None), *(slice(low, high) for low, high in box))
                corner = tuple(low for low, _ in box)
                sources.append(
                    Source(image=image[cut], labels=label[cut].short(), corner=corner, whole=tuple(image.shape[1:]))
                )
            mine, mine_labels = augment(sources, draws, augmentation, generator)
            values = (
                loss(trainer, torch.stack([s["image"] for s in theirs]), levels),
                loss(trainer, mine, targets(mine_labels)),
            )
            found[name].append(values)
    for name, losses in found.items():
        theirs_all, ours_all = np.array(losses).T
        apart = ours_all - theirs_all
        tell(name, theirs_all.mean(), ours_all.mean(), apart.std(ddof=1) / len(apart) ** 0.5)


def own_batches(trainer: Any, batches: int) -> None:
    """Compare whole batches of both loaders, patches anywhere and patches on foreground apart."""
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

    from trainers.segmentation.data_path import loaders

    ours, _ = loaders(trainer, seed=1, threads=0)
    peers = (SingleThreadedAugmenter(nnunet_loader(trainer, nnunet_transforms(trainer)), None), ours)
    found: list[list[list[float]]] = [[], []]
    for _ in range(batches):
        for losses, loader in zip(found, peers, strict=True):
            batch = next(loader)
            size = len(batch["data"])
            losses.append([loss(trainer, batch["data"], batch["target"], sample) for sample in range(size)])
    theirs, mine = np.array(found)
    first = round(trainer.batch_size * (1 - trainer.oversample_foreground_percent))
    for name, part in (("anywhere", slice(0, first)), ("on foreground", slice(first, None))):
        a, b = theirs[:, part].ravel(), mine[:, part].ravel()
        tell(name, a.mean(), b.mean(), float(np.sqrt(a.var() / len(a) + b.var() / len(b))))


def tell(name: str, theirs: float, ours: float, error: float) -> None:
    """Print a line."""
    apart = ours - theirs
    away = f", {abs(apart) / error:.1f} errors" if error else ""
    print(f"{name:15} nnU-Net {theirs:+.4f}, ours {ours:+.4f}, apart {apart:+.4f} ± {error:.4f}{away}", flush=True)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--patches", type=int, default=800)
    parser.add_argument("--batches", type=int, default=2000)
    options = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = trainer_of(options.work.resolve())
        trainer.loss = trainer._build_loss()  # noqa: SLF001
        nnunet_transforms(trainer)  # talks
    same_patches(trainer, max(2, options.patches // trainer.batch_size))
    own_batches(trainer, options.batches)


if __name__ == "__main__":
    main()
