"""Real MRI that arrives with a dependency: the MNI152 template of nilearn's wheel, cut into slabs as a BIDS tree.

The template is the ICBM 152 nonlinear symmetric average (2009a, 1 mm) with probability maps of grey and white matter:
Fonov et al., NeuroImage 54 (2011), doi:10.1016/j.neuroimage.2010.07.033. It is the mean of many brains, so a model
trained on it is an exercise and nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from registry.errors import MregError, NotFoundError

SLAB_THICKNESS = 10  # slices of 1 mm
GAP = 2  # slices between two slabs, which belong to none
FIRST_SLICE, LAST_SLICE = 26, 146  # axial slices with enough brain
FULL = 255  # a probability of one in the maps
TEST_SLABS = (3, 7)  # every slab beside them is a training slab
TISSUES = {"gm": "GM", "wm": "WM"}
TISSUES_LABELS = {"gm": "GM_seg", "wm": "WM_seg"}


def has_template() -> bool:
    """Whether the template is here."""
    try:
        template_files()
    except MregError:
        return False
    return True


def template_files() -> dict[str, Path]:
    """Return the paths of the image (`t1`) and the two probability maps (`gm`, `wm`), without importing nilearn."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise MregError("nilearn is not installed: its wheel carries the demo's MRI", hint='pip install "mreg[demo]"')
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    files = {kind: folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", *TISSUES)}
    for path in files.values():
        if not path.is_file():
            raise NotFoundError(f"{path}: not there", hint="install the nilearn version of constraints.txt")
    return files


def write_bids(root: Path) -> list[str]:
    """Write the slabs as a BIDS tree with masks under derivatives/labels; return the subjects to test on.

    A voxel belongs to the tissue whose map is larger, where grey and white matter together make up half of it.
    """
    import nibabel as nib
    import numpy as np

    starts = range(FIRST_SLICE, LAST_SLICE - SLAB_THICKNESS + 1, SLAB_THICKNESS + GAP)
    subjects = [f"sub-slab{number:02d}" for number in range(1, len(starts) + 1)]
    tests = [subjects[number - 1] for number in TEST_SLABS]
    if root.exists():
        return tests
    partial = root.with_name(f".{root.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    files = template_files()
    images = {kind: nib.load(path) for kind, path in files.items()}
    t1 = np.asarray(images["t1"].dataobj)
    gm, wm = (np.asarray(images[kind].dataobj).astype(np.int16) for kind in TISSUES)
    tissue = gm + wm > FULL / 2
    masks = {"GM": tissue & (gm >= wm), "WM": tissue & (gm < wm)}
    inside = np.argwhere(t1[:, :, FIRST_SLICE:LAST_SLICE].any(axis=2))
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    for subject, start in zip(subjects, starts, strict=True):
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(start, start + SLAB_THICKNESS))
        affine = images["t1"].affine.copy()
        affine[:3, 3] = images["t1"].affine[:3] @ [low[0], low[1], start, 1]
        anat, labels = partial / subject / "anat", partial / "derivatives" / "labels" / subject / "anat"
        anat.mkdir(parents=True)
        labels.mkdir(parents=True)
        nib.save(nib.Nifti1Image(t1[box], affine), anat / f"{subject}_T1w.nii.gz")
        for label, mask in masks.items():
            name = f"{subject}_T1w_label-{label}_seg.nii.gz"
            nib.save(nib.Nifti1Image(mask[box].astype(np.uint8), affine), labels / name)
    for folder, name in ((partial, "MNI152 slabs"), (partial / "derivatives" / "labels", "MNI152 slabs: tissue masks")):
        description = {"Name": name, "BIDSVersion": "1.9.0"}
        (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    partial.rename(root)
    return tests
