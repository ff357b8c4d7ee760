"""A method, an encoder and images as the loop takes them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trainers.core.distributed import Ranks
from trainers.core.errors import TrainingError
from trainers.pretraining.images import ImageStore, patch_loader
from trainers.pretraining.method import Draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from trainers.data.loader import PatchLoader
    from trainers.pretraining.method import Method, Net

ALONE = Ranks()
TRAINING, VALIDATION, VIEWS = 0, 1, 2  # streams of random numbers


class PretrainingTask:
    """What the loop trains. Each process draws patches of its own, its share of the batch."""

    def __init__(
        self, method: Method, net: Net, images: tuple[ImageStore, ImageStore], *, batch: int, val_iterations: int,
        seed: int, device: torch.device, ranks: Ranks = ALONE, threads: int = 0, on_anatomy: float = 0.0,
    ) -> None:  # fmt: skip
        if batch % ranks.size:
            raise TrainingError(
                f"batch_size {batch} does not split over {ranks.size} processes", hint="make it a multiple of them"
            )
        self.method, self.device, self.val_iterations = method, device, val_iterations
        self.module: nn.Module = method.module(net)
        self._seed = (seed, ranks.rank)

        def loader(store: ImageStore, stream: int, threads: int) -> PatchLoader:
            return patch_loader(
                store, method.reading(), batch // ranks.size, train=stream == TRAINING, device=device,
                seed=(*self._seed, stream), threads=threads, on_anatomy=on_anatomy,
            )  # fmt: skip

        self._training = loader(images[0], TRAINING, threads)
        self._validation = loader(images[1], VALIDATION, min(threads, 2))

    def batches(self, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
        """Yield the views of an epoch from iteration `start` on."""
        self._training.start(epoch, start)
        for number in range(start, sys.maxsize):
            yield self._views(next(self._training), (TRAINING, epoch, number), train=True)

    def losses(self, module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the method's losses."""
        return self.method.losses(module, batch)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return the losses on subjects that are not trained on, on the same views each time."""
        sums: dict[str, float] = {}
        self._validation.start(0)
        for number in range(self.val_iterations):
            views = self._views(next(self._validation), (VALIDATION, 0, number), train=False)
            for name, value in self.method.losses(module, views).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {f"val_{name}": total / self.val_iterations for name, total in sums.items()}

    def close(self) -> None:
        """End the threads that read."""
        self._training.close()
        self._validation.close()

    def _views(self, raw: dict[str, Any], place: tuple[int, int, int], *, train: bool) -> dict[str, Tensor]:
        draws = Draws.of((*self._seed, VIEWS, *place), self.device, train=train)
        weight = (raw["target"] != 1).to(raw["data"].dtype)
        return self.method.views(raw["data"], weight, draws)
