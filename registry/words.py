"""What the terms of a model's name mean in plain English, for its card and its description."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.names import load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.names import NameResult

TASKS = {
    "seg": "segmentation",
    "label": "labelling",
    "find": "localisation",
    "crop": "cropping",
    "classif": "classification",
    "pretrain": "pre-training of an encoder",
    "registration": "registration",
}
ANATOMY = {
    "sc": "spinal cord",
    "gm": "grey matter",
    "csf": "cerebrospinal fluid",
    "brainstem": "brainstem",
    "axon": "axons",
    "myelin": "myelin",
    "wm": "white matter",
    "lesion": "lesions",
    "canal": "spinal canal",
    "rootlets": "nerve rootlets",
    "disc": "intervertebral discs",
    "vertebrae": "vertebrae",
    "spine": "spine",
    "centerline": "centreline",
    "pmj": "pontomedullary junction",
    "compression": "compressions",
    "tumor": "tumours",
    "edema": "oedema",
    "cavity": "cavities",
}
SUBJECTS = {
    "human": "humans",
    "dog": "dogs",
    "cat": "cats",
    "rat": "rats",
    "mouse": "mice",
    "monkey": "monkeys",
    "pig": "pigs",
    "hc": "healthy",
    "ms": "multiple sclerosis",
    "sci": "spinal cord injury",
    "dcm": "degenerative cervical myelopathy",
    "als": "amyotrophic lateral sclerosis",
    "nmo": "neuromyelitis optica",
    "stroke": "stroke",
    "invivo": "in vivo",
    "exvivo": "ex vivo",
}
CONTRASTS = {
    "t1": "T1-weighted MRI",
    "t2": "T2-weighted MRI",
    "t2star": "T2*-weighted MRI",
    "dwi": "diffusion-weighted MRI",
    "sem": "scanning electron microscopy",
    "tem": "transmission electron microscopy",
    "oi": "optical imaging",
    "mp2rage": "MP2RAGE MRI",
    "unit1": "UNIT1 images of MP2RAGE",
    "psir": "PSIR MRI",
    "stir": "STIR MRI",
    "epi": "EPI",
    "bold": "BOLD MRI",
    "mts": "magnetisation-transfer MRI",
    "mtr": "magnetisation-transfer ratio",
    "pd": "proton-density-weighted MRI",
    "flair": "FLAIR MRI",
    "swi": "susceptibility-weighted MRI",
    "qsm": "quantitative susceptibility maps",
    "ct": "CT",
    "bf": "bright-field microscopy",
    "wmn": "white-matter-nulled MRI",
    "agnostic": "MRI of any contrast",
}
WORDS = TASKS | ANATOMY | SUBJECTS | CONTRASTS


def listing(words: Iterable[str]) -> str:
    """Join words as a sentence does.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def terms(name: NameResult, field: str) -> list[str]:
    """Return the words of a field; where the name leaves it out, of the field's default."""
    default = load_vocabulary().fields[field].default
    written = (name.fields or {}).get(field) or ([default] if default else [])
    return [WORDS.get(term, term) for term in written]


def description(name: NameResult) -> str:
    """Return one sentence for the registry's list, from the name alone.

    >>> from registry.names import parse
    >>> description(parse("model_seg_sc-gm_t2"))
    'Segmentation of spinal cord and grey matter on T2-weighted MRI'
    """
    task = listing(terms(name, "task") or ["model"])
    contrasts = terms(name, "contrast")
    on = f" on {listing(contrasts)}" if contrasts else ""
    animals = "" if terms(name, "animal") == ["humans"] else f" of {listing(terms(name, 'animal'))}"
    if (name.fields or {}).get("task") == ["pretrain"]:
        task = "encoder pre-trained on images"
    text = f"{task} of {listing(terms(name, 'anatomy'))}{on}{animals}"
    return text[0].upper() + text[1:]


def topics(name: NameResult) -> tuple[str, ...]:
    """Return the repository's topics: what a search in the organisation should find it by."""
    fields = ("task", "anatomy", "animal", "contrast")
    found = [term.lower() for field in fields for term in (name.fields or {}).get(field, [])]
    return tuple(dict.fromkeys(["mreg", "deep-learning", "medical-imaging", *found]))
