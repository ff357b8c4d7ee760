"""`mreg data import` and `verify` on real MRI, whole and broken."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fixtures_dataset import CASES, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import dataset as importer
from registry import demo_data, orientation
from registry.splits import subject_splits

CODES = json.loads((Path(__file__).parent / "data" / "naming" / "orientations.json").read_text())["codes"]


@pytest.fixture(scope="session")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's BIDS tree, cut from the MNI152 template."""
    root = tmp_path_factory.mktemp("mni") / "bids"
    demo_data.write_bids(root)
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def import_mni(mreg, bids: Path, out: Path, *more: object):
    return mreg(
        "data", "import", bids, out, "--dataset-id", 7, "--label", "gm=GM_seg", "--label", "wm=WM_seg",
        "--test-subject", "sub-slab03", *more,
    )  # fmt: skip


def codes_of(mreg, dataset: Path) -> set[str]:
    result = mreg("data", "verify", dataset, "--json")
    document = json.loads(result.stdout)
    assert document["ok"] == (result.exit_code == 0)
    return {finding["code"] for finding in document["findings"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_all_48_codes_convert_both_ways() -> None:
    assert len(CODES) == 48
    for sct, nibabel in CODES.items():
        assert orientation.is_valid(sct)
        assert orientation.to_nibabel(sct) == nibabel
        assert orientation.to_nibabel(nibabel) == sct
    assert orientation.describe("RPI") == "RPI (SCT; nibabel LAS)"
    assert orientation.of_affine(np.eye(4)) == "LPI"
    assert orientation.of_affine(np.diag([-1.0, 1, 1, 1])) == "RPI"


@pytest.mark.parametrize("code", ["", "RP", "rpi", "RPIS", "RRI", "XYZ", "RPI ", ["R", "P", "I"], None])
def test_what_is_no_orientation_is_told(code: object) -> None:
    assert not orientation.is_valid(code)


@settings(deadline=None, max_examples=60)
@given(
    start=st.sampled_from(sorted(CODES)),
    end=st.sampled_from(sorted(CODES)),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    tilt=st.floats(-0.4, 0.4),
)
def test_reorienting_keeps_every_voxel_in_its_place(start, end, shape, tilt) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    oblique = np.eye(4)
    oblique[:3, :3] = [[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]]
    first, first_affine = orientation.reorient(array, oblique @ np.diag([1.0, 2.0, 3.0, 1.0]), start)
    there, affine = orientation.reorient(first, first_affine, end)
    assert orientation.of_affine(affine) == end
    back, back_affine = orientation.reorient(there, affine, start)
    assert np.array_equal(back, first)
    assert np.allclose(back_affine, first_affine)
    index = np.argwhere(there == array.max())[0]
    where = np.argwhere(first == array.max())[0]
    assert np.allclose(affine @ [*index, 1], first_affine @ [*where, 1])


def test_an_import_is_verified_clean_and_says_its_orientation(mreg, bids, tmp_path) -> None:
    result = import_mni(mreg, bids, tmp_path / "raw")
    assert result.exit_code == 0
    dataset = Path(result.stdout.strip())
    document = json.loads((dataset / "dataset.json").read_text())
    assert document["image_orientation"] == "RPI"
    assert document["labels"] == {"background": 0, "gm": 1, "wm": 2}
    assert (document["numTraining"], document["numTest"]) == (9, 1)
    assert str(tmp_path) not in json.dumps(document)
    image = nib.load(dataset / "imagesTs" / "sub-slab03_T1w_0000.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    source = nib.load(bids / "sub-slab03" / "anat" / "sub-slab03_T1w.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj)[::-1], np.asarray(source.dataobj))
    assert image.get_data_dtype() == source.get_data_dtype()
    label = np.asarray(nib.load(dataset / "labelsTs" / "sub-slab03_T1w.nii.gz").dataobj)
    masks = bids / "derivatives" / "labels" / "sub-slab03" / "anat"
    for value, tail in ((1, "GM"), (2, "WM")):
        mask = np.asarray(nib.load(masks / f"sub-slab03_T1w_label-{tail}_seg.nii.gz").dataobj)
        assert np.array_equal(label[::-1] == value, mask > 0)
    assert not codes_of(mreg, dataset)


def test_the_same_import_twice_changes_nothing_and_another_is_refused(mreg, bids, tmp_path) -> None:
    dataset = Path(import_mni(mreg, bids, tmp_path / "raw").stdout.strip())
    before = contents(dataset)
    assert import_mni(mreg, bids, tmp_path / "raw").exit_code == 0
    other = import_mni(mreg, bids, tmp_path / "raw", "--orientation", "LPI")
    assert other.exit_code == 1
    assert "exists with other content" in other.stderr
    taken = import_mni(mreg, bids, tmp_path / "raw", "--name", "Other")
    assert taken.exit_code == 1
    assert "belongs to" in taken.stderr
    assert contents(dataset) == before


def test_an_import_that_dies_leaves_nothing(mreg, bids, tmp_path, monkeypatch) -> None:
    written = []
    convert = importer._convert

    def die(*arguments):
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(tmp_path))
        written.append(convert(*arguments))

    monkeypatch.setattr(importer, "_convert", die)
    result = import_mni(mreg, bids, tmp_path / "raw")
    assert result.exit_code == 1
    assert "no space left" in result.stderr
    assert not contents(tmp_path / "raw")
    monkeypatch.undo()
    (tmp_path / "raw" / ".Dataset007_GmWmT1w.part" / "imagesTr").mkdir(parents=True)  # a kill cleans up nothing
    assert import_mni(mreg, bids, tmp_path / "raw").exit_code == 0


def test_an_import_names_all_bad_files_at_once(mreg, bids, tmp_path) -> None:
    copy = Path(shutil.copytree(bids, tmp_path / "bids"))
    image = copy / "sub-slab01" / "anat" / "sub-slab01_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[:1000])
    mask = copy / "derivatives/labels/sub-slab02/anat/sub-slab02_T1w_label-GM_seg.nii.gz"
    moved = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), moved.affine + np.diag([0, 0, 0.5, 0])), mask)
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert result.exit_code == 1
    assert "sub-slab01_T1w.nii.gz" in result.stderr
    assert "another grid" in result.stderr
    assert not contents(tmp_path / "raw")


def test_a_pointer_of_git_annex_is_told(mreg, bids, tmp_path) -> None:
    copy = Path(shutil.copytree(bids, tmp_path / "bids"))
    image = copy / "sub-slab01" / "anat" / "sub-slab01_T1w.nii.gz"
    image.unlink()
    image.symlink_to("../../.git/annex/objects/nowhere")
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert result.exit_code == 1
    assert "git annex get" in result.stderr


def test_the_commit_of_a_clone_is_recorded(mreg, bids, tmp_path) -> None:
    copy = Path(shutil.copytree(bids, tmp_path / "bids"))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(copy), *words], check=True)
    dataset = Path(import_mni(mreg, copy, tmp_path / "raw").stdout.strip())
    source = json.loads((dataset / "dataset.json").read_text())["source"]
    head = subprocess.run(["git", "-C", str(copy), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert source["commit"] == head.stdout.strip()
    assert source["dirty"] is False


def test_what_cannot_be_deduced_is_listed(mreg, bids, tmp_path) -> None:
    result = mreg("data", "import", bids, tmp_path / "raw", "--dataset-id", 7)
    assert result.exit_code == 1
    assert "GM_seg (10)" in result.stderr
    assert "--label" in result.stderr
    assert mreg("data", "import", tmp_path / "none", tmp_path / "raw", "--dataset-id", 7).exit_code == 1
    assert import_mni(mreg, bids, tmp_path / "raw", "--test-subject", "sub-99").exit_code == 1
    assert import_mni(mreg, bids, tmp_path / "raw", "--orientation", "rpi").exit_code == 1
    assert mreg("data", "import", bids, tmp_path / "raw", "--dataset-id", 7, "--label", "gm").exit_code == 2


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(2, 6))
def test_no_subject_stands_on_both_sides(sessions, folds) -> None:
    cases = [f"sub-{s:02d}_ses-{n}_T2w" for s, count in enumerate(sessions) for n in range(count)]
    splits = subject_splits(cases, folds)
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == sorted(cases) or len(cases) == 1
        if len(sessions) > 1:
            assert not {c[:6] for c in split["train"]} & {c[:6] for c in split["val"]}
    if len(cases) > 1:
        assert sorted(case for split in splits for case in split["val"]) == sorted(cases)
    assert splits == subject_splits(cases[::-1], folds)


def edit_image(path: Path, change) -> None:
    image = nib.load(path)
    array, affine = change(np.asarray(image.dataobj).astype(np.float32), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def break_truncated(raw: Path) -> None:
    path = raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def break_nan(raw: Path) -> None:
    def nan(array, affine):
        array[0, 0, 0] = np.nan
        return array, affine

    edit_image(raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz", nan)


def break_document(raw: Path, **changes) -> None:
    path = raw / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BREAKS = {
    "DATA001": lambda raw: shutil.rmtree(raw / "imagesTr"),
    "DATA002": lambda raw: (raw / "imagesTr" / "notes.txt").write_text("x"),
    "DATA004": lambda raw: break_document(raw, channel_names={"0": "T1w", "1": "T2w"}),
    "DATA005": lambda raw: shutil.copy(
        raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz", raw / "imagesTr" / f"{CASES[0]}_0001.nii.gz"
    ),
    "DATA006": lambda raw: (raw / "labelsTr" / f"{CASES[0]}.nii.gz").unlink(),
    "DATA007": lambda raw: (raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz").unlink(),
    "DATA009": lambda raw: break_document(raw, numTraining=7),
    "DATA010": break_truncated,
    "DATA011": break_nan,
    "DATA012": lambda raw: edit_image(raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz", lambda a, m: (a * 0, m)),
    "DATA013": lambda raw: break_document(raw, image_orientation="RPI"),
    "DATA014": lambda raw: break_document(raw, labels={"background": 0, "gm": 1}),
    "DATA015": lambda raw: edit_image(raw / "labelsTr" / f"{CASES[0]}.nii.gz", lambda a, m: (a * 0, m)),
    "DATA016": lambda raw: edit_image(raw / "labelsTr" / f"{CASES[0]}.nii.gz", lambda a, m: (a[:-1], m)),
    "DATA017": lambda raw: shutil.copy(
        raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz", raw / "imagesTr" / f"{CASES[1]}_0000.nii.gz"
    ),
    "DATA018": lambda raw: (raw / "splits_final.json").write_text("[{}]"),
    "DATA019": lambda raw: (raw / "splits_final.json").write_text('[{"train": ["nobody"], "val": []}]'),
    "DATA020": lambda raw: (raw / "splits_final.json").write_text(
        json.dumps([{"train": [CASES[0]], "val": [CASES[0]]}])
    ),
}


def test_a_good_dataset_has_no_finding(mreg, raw) -> None:
    assert not codes_of(mreg, raw)


@pytest.mark.parametrize("code", sorted(BREAKS))
def test_each_defect_is_found(mreg, raw, code) -> None:
    BREAKS[code](raw)
    assert code in codes_of(mreg, raw)


def test_missing_num_training_is_found(mreg, raw) -> None:
    path = raw / "dataset.json"
    document = json.loads(path.read_text())
    del document["numTraining"]
    path.write_text(json.dumps(document))
    assert "DATA008" in codes_of(mreg, raw)


def test_several_defects_are_reported_in_one_go(mreg, raw) -> None:
    break_truncated(raw)
    BREAKS["DATA013"](raw)
    BREAKS["DATA020"](raw)
    assert {"DATA010", "DATA013", "DATA020"} <= codes_of(mreg, raw)


def test_the_real_sets_are_clean(mreg, test_data) -> None:
    for dataset in sorted((test_data / "nnUNet_raw").glob("Dataset*")):
        assert not codes_of(mreg, dataset) - {"DATA015"}, dataset.name


def test_importing_bids_gives_the_voxels_of_the_raw_set(mreg, test_data, tmp_path) -> None:
    result = mreg(
        "data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 501, "--contrast", "T2w",
        "--label", "sc=SC_seg", "--test-subject", "sub-errsm30", "--orientation", "LPI",
    )  # fmt: skip
    ours, theirs = Path(result.stdout.strip()), test_data / "nnUNet_raw" / "Dataset501_SpinalCordT2w"
    names = sorted(p.relative_to(theirs).as_posix() for p in theirs.rglob("*.nii.gz"))
    assert sorted(p.relative_to(ours).as_posix() for p in ours.rglob("*.nii.gz")) == names
    for name in names:
        a, b = nib.load(ours / name), nib.load(theirs / name)
        assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj)), name
        assert np.allclose(a.affine, b.affine, atol=1e-3), name
    key = lambda split: split["val"]  # noqa: E731
    written, expected = (sorted(json.loads((d / "splits_final.json").read_text()), key=key) for d in (ours, theirs))
    assert written == expected


def test_regions_and_channels_are_imported(mreg, test_data, tmp_path) -> None:
    result = mreg(
        "data", "import", test_data / "bids_lesion", tmp_path, "--dataset-id", 510, "--label", "sc=SC_seg",
        "--label", "lesion=lesion_seg", "--region", "sc=sc+lesion",
    )  # fmt: skip
    document = json.loads((Path(result.stdout.strip()) / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "sc": [1, 2], "lesion": 2}
    assert document["regions_class_order"] == [1, 2]
    assert not codes_of(mreg, Path(result.stdout.strip())) - {"DATA015"}
    result = mreg(
        "data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 502, "--name", "MTS",
        "--contrast", "flip-1_mt-off_MTS", "--contrast", "flip-1_mt-on_MTS",
    )  # fmt: skip
    dataset = Path(result.stdout.strip())
    assert sorted(p.name for p in (dataset / "imagesTr").iterdir()) == [
        f"sub-{subject}_MTS_000{channel}.nii.gz" for subject in ("errsm30", "unf05") for channel in (0, 1)
    ]
    assert not codes_of(mreg, dataset)


def test_a_version_1_folder_is_imported(mreg, test_data, tmp_path) -> None:
    task = test_data / "auc23" / "raw" / "nnUNet_raw_data" / "Task520_SpineContrastLesion"
    result = mreg("data", "import", task, tmp_path, "--dataset-id", 520, "--name", "Cord")
    dataset = Path(result.stdout.strip())
    document = json.loads((dataset / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "spinal_cord": 1}
    assert (document["numTraining"], document["numTest"]) == (20, 6)
    assert not codes_of(mreg, dataset)


def test_a_4d_decathlon_image_becomes_channels(mreg, raw, tmp_path) -> None:
    task = tmp_path / "Task01_Four"
    for folder in ("imagesTr", "labelsTr"):
        (task / folder).mkdir(parents=True)
    image = nib.load(raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz")
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.stack([array, 255 - array], axis=3), image.affine), task / "imagesTr" / "case_1.nii.gz")
    shutil.copy(raw / "labelsTr" / f"{CASES[0]}.nii.gz", task / "labelsTr" / "case_1.nii.gz")
    document = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "grey matter", "2": "wm"},
        "training": [{"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz"}],
    }
    (task / "dataset.json").write_text(json.dumps(document))
    dataset = Path(mreg("data", "import", task, tmp_path / "raw", "--dataset-id", 9).stdout.strip())
    second = np.asarray(nib.load(dataset / "imagesTr" / "case_1_0001.nii.gz").dataobj)
    assert np.array_equal(second[::-1], 255 - array)
    document["training"][0]["image"] = "../../etc/passwd"
    (task / "dataset.json").write_text(json.dumps(document))
    outside = mreg("data", "import", task, tmp_path / "raw2", "--dataset-id", 9)
    assert outside.exit_code == 1
    assert "outside" in outside.stderr
