"""The lines that a release needs in the Spinal Cord Toolbox (SCT): its entries of MODELS and TASKS, a test, a page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import names, words
from registry.checks.rules import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

# Vocabulary's contrasts → SCT's words for them; SCT knows no others, and shows what it is given.
CONTRASTS = {"epi": "bold", "mp2rage": "UNIT1", "unit1": "UNIT1", "agnostic": "any"}
# Vocabulary's contrasts → image of SCT's testing data.
IMAGES = {"t1": "t1/t1.nii.gz", "t2star": "t2s/t2s.nii.gz", "epi": "fmri/fmri.nii.gz", "bold": "fmri/fmri.nii.gz"}
OTHER_IMAGE = "t2/t2.nii.gz"
# What SCT unpacks into one model's folder, fold by fold; of every other model each archive is a model of its own.
MERGED = "model_seg_ms_lesion"
DISEASES = {"lesion", "tumor", "edema", "cavity", "compression"}
MATTERS = {"gm", "wm"}
WIDTH = 90  # of a piece of text
PRIORITY = 10  # place among the tasks of a group; SCT's developers choose it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What SCT has to be told of a release."""

    name: str  # of the model in the registry
    task: str
    urls: tuple[tuple[str, ...], ...]  # of each archive: its address, then its mirrors
    folds: tuple[str, ...]  # of each archive, for the keys of several
    page: str  # address of the model's repository
    description: str
    long_description: str
    citation: str
    suffixes: tuple[str, ...]
    cropped_image: bool

    @property
    def key(self) -> str:
        """Return the model's key in MODELS, which is also its folder on users' disks."""
        return self.name if self.name.startswith("model") else f"model_{self.name}"

    @property
    def models(self) -> dict[str, Any]:
        """Return MODELS[key]."""
        several = {f"fold{fold}": list(urls) for fold, urls in zip(self.folds, self.urls, strict=True)}
        entry = {
            "url": list(self.urls[0]) if len(self.urls) == 1 else several,
            "description": self.description,
            "contrasts": contrasts(self.name),
            "framework": "nnunetv2",
            "thr": None,
            "default": False,
        }
        return {**entry, "cropped_image": True} if self.cropped_image else entry

    @property
    def tasks(self) -> dict[str, Any]:
        """Return TASKS[task]."""
        return {
            "description": self.description,
            "long_description": self.long_description,
            "url": self.page,
            "models": [self.key],
            "citation": self.citation,
            "group": group(self.name),
            "priority": PRIORITY,
        }

    def python(self) -> str:
        """Return both tables with this one entry: the inner lines are indented as in SCT's file."""
        return f"MODELS = {literal({self.key: self.models})}\n\nTASKS = {literal({self.task: self.tasks})}"

    def test(self) -> str:
        """Return a test for SCT: the files that should come out are there, and not empty."""
        function = "".join(letter if letter.isalnum() else "_" for letter in self.task)
        image = next((IMAGES[term] for term in _terms(self.name, "contrast") if term in IMAGES), OTHER_IMAGE)
        return TEST.format(
            function=function, task=literal(self.task), folder=literal(image.partition("/")[0]),
            image=literal(image.partition("/")[2]), suffixes=literal([f"{s}.nii.gz" for s in self.suffixes], 1),
        ).rstrip()  # fmt: skip

    def documentation(self) -> str:
        """Return TASK.rst for SCT's documentation."""
        task = printable(self.task)
        return PAGE.format(task=task, line="=" * max(len(task), 3)).rstrip()

    def install(self) -> str:
        """Return the command with which a tester installs this release into an SCT that does not know it yet."""
        addresses = " ".join(printable(urls[0]) for urls in self.urls)
        return f"sct_deepseg {printable(self.task)} -install -custom-url {addresses}"


TEST = """\
def test_sct_deepseg_{function}(tmp_path):
    image = tmp_path / {image}
    shutil.copy(sct_test_path({folder}, {image}), image)
    sct_deepseg.main([{task}, "-i", str(image)])
    for ending in {suffixes}:
        mask = tmp_path / image.name.replace(".nii.gz", ending)
        assert Image(str(mask)).data.any()
"""
PAGE = """\
.. _sct_deepseg_{task}:

{task}
{line}

.. argparse::
   :ref: spinalcordtoolbox.scripts.sct_deepseg.{task}
   :prog: sct_deepseg {task}
   :markdownhelp:
"""


def task_of(name: str) -> str:
    """Return a task's name in SCT's way, region first and contrast last, from a model's name.

    >>> task_of("model_seg_lesion_ms_t2")
    'lesion_ms_t2'
    """
    parts = [*_terms(name, "anatomy"), *_terms(name, "animal"), *_terms(name, "pathology"), *_terms(name, "contrast")]
    return "_".join(part for part in parts if part not in ("human", "hc", "agnostic")) or name


def contrasts(name: str) -> list[str]:
    """Return the contrasts of a model's name in SCT's words; a name without one promises any.

    >>> contrasts("model_seg_sc_t1-mp2rage")
    ['t1', 'UNIT1']
    """
    found = [CONTRASTS.get(term, term) for term in _terms(name, "contrast")]
    return list(dict.fromkeys(found)) or ["any"]


def group(name: str) -> str:
    """Return the group of SCT's tasks that a model belongs to, from its name."""
    anatomy, pathology = set(_terms(name, "anatomy")), set(_terms(name, "pathology"))
    if anatomy & DISEASES or pathology - {"hc"}:
        return "pathology"
    return "gray_matter" if anatomy & MATTERS else "spinal_cord"


def sentence(name: str) -> str:
    """Return a description from the name alone."""
    return words.description(names.parse(name))


def _terms(name: str, field: str) -> list[str]:
    """Return the terms of a field, its default where the name leaves it out; of the suggestion for a bad name."""
    result = names.parse(name)
    full = result.full or (names.parse(result.suggestion).full if result.suggestion else None)
    fields = (names.parse(full).fields if full else None) or {}
    return list(fields.get(field, []))


def literal(value: Any, depth: int = 0) -> str:
    """Return a value as Python source that reads well; text from strangers cannot leave its quotes."""
    indent, end = "    " * (depth + 1), "    " * depth
    if isinstance(value, dict):
        rows = [f"{indent}{literal(str(key))}: {literal(item, depth + 1)},\n" for key, item in value.items()]
        return "{\n" + "".join(rows) + end + "}"
    if isinstance(value, list | tuple):
        return _sequence(value, depth)
    if isinstance(value, str):
        return _text(value, depth) if len(value) > WIDTH and " " in value else _quoted(value)
    return repr(value)


def _text(value: str, depth: int) -> str:
    """Return a long text as pieces, one a line, that Python joins."""
    pieces = [""]
    for word in re.findall(r" *[^ ]+| +", value):
        if len(pieces[-1]) + len(word) > WIDTH:
            pieces.append("")
        pieces[-1] += word
    indent = "    " * (depth + 1)
    return "(\n" + "".join(f"{indent}{_quoted(piece)}\n" for piece in pieces if piece) + "    " * depth + ")"


def _quoted(value: str) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _sequence(values: Sequence[Any], depth: int) -> str:
    line = "[" + ", ".join(literal(value, depth) for value in values) + "]"
    if len(line) + 4 * depth < WIDTH + 10 and "\n" not in line:
        return line
    indent = "    " * (depth + 1)
    return "[\n" + "".join(f"{indent}{literal(value, depth + 1)},\n" for value in values) + "    " * depth + "]"
