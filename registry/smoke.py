"""Runs an archive on one image and compares the output with what the manifest says it should be."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry import encoder_smoke, workers
from registry.files import sha256
from registry.findings import Finding
from registry.manifest import MANIFEST_NAME
from registry.smoke_output import Output, UnusableArchiveError, predict, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.findings import Level
    from registry.manifest import Reference, ReferenceImage
    from registry.reference import Probabilities

SAME = 0.95  # part of the labelled voxels; another processor or torch moves a few at the borders
SAME_PROBABILITY = 0.01  # largest difference of a probability, for the same reason
KINDS: dict[str, tuple[Level, str]] = {
    "SMOKE001": ("error", "an archive that cannot be run (`--run`)"),
    "SMOKE002": ("error", "an output without any label (`--run`)"),
    "SMOKE003": ("error", "another output than the manifest's reference (`--run`)"),
    "SMOKE004": ("warning", "no label on the bundled image, which may not show what the model segments (`--run`)"),
    "SMOKE005": ("note", "an output that could be compared with no reference (`--run`)"),
    "SMOKE006": ("note", "what the run took, and how like the reference it is (`--run`)"),
}


@dataclass(frozen=True, kw_only=True)
class SmokeResult:
    """What running an archive gave."""

    seconds: float  # with unpacking and the start of the process
    peak_memory_bytes: int  # of the process that predicted
    image: ReferenceImage
    voxels: dict[str, int]  # of each label value but 0
    probabilities: Probabilities | None  # of a classifier: by label and class
    reference: Reference | None  # of the manifest, whether or not it is of this image
    agreement: float | None = None  # 0 to 1; None where there is nothing to compare with
    sha256_equal: bool | None = None

    def words(self) -> str:
        """Return the numbers in a sentence."""
        took = f"{self.seconds:.1f} s, {self.peak_memory_bytes / 1e6:.0f} MB"
        if self.probabilities is not None:
            return self._answer(f"ran in {took}")
        labelled = ", ".join(f"{number} of label {value}" for value, number in self.voxels.items())
        text = f"ran in {took}; voxels: {labelled or 'none labelled'}"
        if self.agreement is None:
            return text
        return f"{text}; agreement with the reference {self.agreement:.4f}" + (", same bytes" * bool(self.sha256_equal))

    def _answer(self, took: str) -> str:
        said = []
        for label, found in (self.probabilities or {}).items():
            name = max(found, key=found.__getitem__)
            said.append(f"{label}: {name} {found[name]:.2f}")
        text = f"{took}; {', '.join(said)}"
        if self.agreement is None:
            return text
        text += f"; largest difference from the reference {1 - self.agreement:.4f}"
        return text + ", same bytes" * bool(self.sha256_equal)


def findings(archive: Path, *, image: Path | None = None, device: str = "cpu") -> Iterator[Finding]:
    """Yield what running an archive tells; raise `MregError` where there is no torch or no image to run it on."""
    workers.require_installed()
    if encoder_smoke.is_encoder_archive(archive):
        yield from _load(archive)
        return
    try:
        result = run(archive, image=image, device=device)
    except UnusableArchiveError as error:
        yield _finding("SMOKE001", error.message, error.hint)
        return
    yield from _judge(result)
    yield _finding("SMOKE006", result.words())


def _load(archive: Path) -> Iterator[Finding]:
    """Yield what loading a pre-trained encoder tells: it has no output."""
    try:
        with tempfile.TemporaryDirectory(prefix="mreg-smoke-") as work, unusable(archive, work):
            words = encoder_smoke.run(archive)
    except UnusableArchiveError as error:
        yield _finding("SMOKE001", error.message, error.hint)
        return
    yield _finding("SMOKE006", words)


def run(archive: Path, *, image: Path | None = None, device: str = "cpu") -> SmokeResult:
    """Run an archive on an image, or the bundled one; compare with the manifest beside it where that has a reference.

    Raises `UnusableArchiveError` for an archive that cannot be unpacked or predict.
    """
    from registry import reference

    output = predict(archive, image, device)
    stored = _stored(archive)
    comparable = stored is not None and stored.image.sha256 == output.image.sha256
    agreement = equal = None
    if stored and comparable:
        agreement = _agreement(output, stored)
        equal = _described(output).sha256 == stored.sha256
    return SmokeResult(
        seconds=output.seconds,
        peak_memory_bytes=output.peak_memory_bytes,
        image=output.image,
        voxels={} if output.labels is None else reference.count(output.labels),
        probabilities=output.probabilities,
        reference=stored,
        agreement=agreement,
        sha256_equal=equal,
    )


def make_reference(archive: Path, *, image: Path | None = None, allow_code: bool = False) -> Reference:
    """Return what an archive gives for an image, or the bundled one; raise as `run` does."""
    return _described(predict(archive, image, "cpu", allow_code=allow_code))


def _described(output: Output) -> Reference:
    from registry import reference

    if output.probabilities is not None:
        return reference.describe_answer(output.probabilities, output.image)
    if output.labels is None:
        raise TypeError("a run gives a label map or probabilities")
    return reference.describe(output.labels, output.image)


def _agreement(output: Output, stored: Reference) -> float:
    from registry import reference

    if output.labels is None:
        return 1 - reference.difference(output.probabilities or {}, stored)
    return reference.agreement(output.labels, stored)


def kept_reference(archive: Path, manifest: Path, image: Path | None) -> Reference | None:
    """Return the reference that an earlier manifest has for the same bytes and the same image."""
    from registry import reference_image
    from registry.manifest import read
    from registry.reference import image_of
    from registry.volumes import read_volume

    earlier = read(manifest) if manifest.is_file() else None
    entry = earlier.model(archive.name) if earlier else None
    if not earlier or not entry or not entry.reference or earlier.sha256_of(archive.name) != sha256(archive):
        return None
    made_with = entry.reference.image
    if image is None:
        return entry.reference if made_with.kind == reference_image.BUNDLED else None
    return entry.reference if made_with == image_of(read_volume(image), reference_image.FILE) else None


def _judge(result: SmokeResult) -> Iterator[Finding]:
    from registry.reference_image import BUNDLED

    stored = result.reference
    if result.probabilities is not None:
        yield from _judge_answer(result, stored)
    elif result.agreement is None:
        named = result.image.kind != BUNDLED
        if not result.voxels and named:
            yield _finding("SMOKE002", "no voxel is labelled", "if the image shows what the model segments, it is lost")
        elif not result.voxels:
            hint = "name an image that shows what the model segments: --image"
            yield _finding("SMOKE004", "no voxel of the bundled image is labelled", hint)
        yield _nothing_to_compare(stored)
    elif not result.voxels and stored and stored.voxels:
        yield _finding("SMOKE002", f"no voxel is labelled, the reference has {stored.voxels}", _hint(stored))
    elif result.agreement < SAME:
        message = f"agreement with the reference {result.agreement:.4f}, expected at least {SAME}"
        yield _finding("SMOKE003", message, _hint(stored))
    elif not result.voxels:
        yield _finding("SMOKE004", "no voxel is labelled, as in the reference", "mreg package --reference-image FILE")


def _judge_answer(result: SmokeResult, stored: Reference | None) -> Iterator[Finding]:
    if result.agreement is None:
        yield _nothing_to_compare(stored)
    elif 1 - result.agreement > SAME_PROBABILITY:
        message = f"a probability differs by {1 - result.agreement:.4f} from the reference, at most {SAME_PROBABILITY}"
        yield _finding("SMOKE003", message, _hint(stored))


def _nothing_to_compare(stored: Reference | None) -> Finding:
    from registry.reference_image import BUNDLED

    if stored is None:
        return _finding("SMOKE005", f"no reference in {MANIFEST_NAME} beside it", "mreg package makes one")
    wanted = f"{stored.image.kind} with SHA-256 {stored.image.sha256}"
    hint = "name that file: --image" if stored.image.kind != BUNDLED else "leave --image out"
    return _finding("SMOKE005", f"the reference was made with another image ({wanted})", hint)


def _hint(stored: Reference | None) -> str:
    made = ", ".join(f"{name} {version}" for name, version in stored.versions.items()) if stored else ""
    return f"other weights, plans or orientation than were packed; the reference was made with {made}"


def _finding(code: str, message: str, hint: str = "") -> Finding:
    return Finding(code=code, level=KINDS[code][0], message=message, hint=hint)


def _stored(archive: Path) -> Reference | None:
    """Return the reference in the manifest beside an archive."""
    from registry.manifest import read

    path = archive.parent / MANIFEST_NAME
    entry = read(path).model(archive.name) if path.is_file() else None
    return entry.reference if entry else None
