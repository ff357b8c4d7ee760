"""What the card and the notes of a pre-trained encoder say: how it was made, what it is for, what to cite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import card, encoder_package, output
from registry.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.manifest import Data, Pretraining
    from registry.runs import Run

# Method → its name, and what it taught the encoder.
METHODS = {
    "mae": ("MAE", "it restored what was hidden of a patch from the rest"),
    "s3d": ("S3D", "it restored what was hidden of a patch with convolutions that saw only the rest"),
    "simmim": ("SimMIM", "it restored the places of a patch that blank tokens stood for"),
    "models_genesis": ("Models Genesis", "it restored patches that were shuffled, bent and painted"),
    "volume_fusion": ("VolumeFusion", "it told for each voxel in which shares two images were mixed"),
    "voco": ("VoCo", "it told how much of a crop lies in each cell of a grid"),
    "simclr": ("SimCLR", "it found the crop that overlaps with a crop among those of other images"),
    "swin_unetr": ("SwinUNETR pre-training", "it filled holes, told rotations and found the other view"),
}
USE = "A start for trainings with labels: segmentation or classification. By itself it predicts nothing."


def title(method: str) -> str:
    """Return a method's name as its paper writes it."""
    return METHODS.get(method, (method, ""))[0]


def facts(about: Pretraining, data: Data) -> dict[str, str]:
    """Return name and value of each fact, in the order in which people ask."""
    name, taught = METHODS.get(about.method, (about.method, ""))
    images = f"{data.num_training} image{'s' * (data.num_training != 1)}"
    people = f"{about.subjects} subject{'s' * (about.subjects != 1)}"
    spacing = _sides(about.spacing_mm) + " mm" if about.spacing_mm else "that of each image"
    rows = {
        "method": f"{name}: {taught}" if taught else name,
        "encoder": about.encoder,
        "trained on": f"{data.name}: {images} of {people}, {', '.join(about.modalities)}",
        "voxels": f"{spacing}, patches of {_sides(about.patch)}",
        "patch for fine-tuning": _sides(about.downstream_patch),
        "epochs": str(about.epochs),
        "training loss": _ends(about.loss),
        "validation loss": _ends(about.val_loss),
    }
    return {key: value for key, value in rows.items() if value}


def commands(ref: str, registry: str = "") -> str:
    """Return how a training starts from it, as a block of code."""
    flag = f" --registry {registry}" if registry else ""
    return f"```bash\nmreg train --from {ref}{flag}\nmreg fetch {ref}{flag}\n```"


def papers(citations: Sequence[str]) -> str:
    """Return the list of what to cite."""
    return "\n".join(f"- {_plain(text)}" for text in citations)


def block(run: Run, about: Pretraining, data: Data) -> str:
    """Return what stands in a card's block of results."""
    rows = "\n".join(f"| {name} | {_plain(value)} |" for name, value in facts(about, data).items())
    start = commands(run.config["repo"])
    parts = [
        USE, f"| | |\n|---|---|\n{rows}", "In the repo of the model that is to start from it:", start,
        "The losses are of the first and the last epoch, the validation's of subjects that were not trained on.",
        f"Cite with it:\n\n{papers(about.citations)}",
    ]  # fmt: skip
    return "\n\n".join(parts)


def write(repo_root: Path, run: Run) -> None:
    """Put a finished training's facts into the block of results of the repo's README.md.

    A card that is missing or has no block is left alone, with a warning.
    """
    from registry.release_facts import data_of

    path = repo_root / card.CARD
    text = path.read_bytes().decode() if path.is_file() else ""
    before, start, rest = text.partition(card.START)
    _, end, after = rest.partition(card.END)
    if not (start and end):
        output.warn(f"{path}: no place for what was trained; add the lines {card.START} and {card.END}")
        return
    data = data_of(run, encoder_package.contract(run, None))
    new = f"{before}{start}\n{block(run, encoder_package.describe(run), data)}\n{end}{after}"
    if new != text:
        write_text(path, new)


def _ends(loss: tuple[float, float] | None) -> str:
    return f"{loss[0]:.3g} → {loss[1]:.3g}" if loss else ""


def _sides(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def _plain(text: str) -> str:
    """Escape what Markdown would read as its own."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>|[]" else letter for letter in " ".join(text.split()))
