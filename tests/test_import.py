"""`mreg data import` of real MRI: BIDS trees and version-1 folders, whole, broken and interrupted."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import COMMAND
from fixtures_dataset import CASES, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import dataset as importer
from registry import demo_data
from registry.splits import subject_splits

FLAGS = ("--label", "gm=GM_seg", "--label", "wm=WM_seg", "--test-subject", "sub-slab03")
MASKS = Path("derivatives/labels")


@pytest.fixture(scope="session")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's BIDS tree, cut from the MNI152 template."""
    root = tmp_path_factory.mktemp("mni") / "bids"
    demo_data.write_bids(root)
    return root


@pytest.fixture
def copy(bids: Path, tmp_path: Path) -> Path:
    """Return a copy of it that a test may break."""
    return Path(shutil.copytree(bids, tmp_path / "bids"))


def image_of(root: Path, subject: str) -> Path:
    return root / subject / "anat" / f"{subject}_T1w.nii.gz"


def mask_of(root: Path, subject: str, label: str) -> Path:
    return root / MASKS / subject / "anat" / f"{subject}_T1w_label-{label}_seg.nii.gz"


def import_mni(mreg, bids: Path, out: Path, *more: object):
    return mreg("data", "import", bids, out, "--dataset-id", 7, *FLAGS, *more)


def imported(result) -> Path:
    assert result.exit_code == 0, result.stderr
    return Path(result.stdout.strip())


def document_of(dataset: Path) -> dict:
    return json.loads((dataset / "dataset.json").read_text())


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def change(path: Path, edit) -> None:
    image = nib.load(path)
    array, affine = edit(np.asarray(image.dataobj).copy(), image.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_import_says_its_orientation_and_keeps_every_voxel(mreg, bids, tmp_path) -> None:
    dataset = imported(import_mni(mreg, bids, tmp_path / "raw"))
    document = document_of(dataset)
    assert document["image_orientation"] == "RPI"
    assert document["labels"] == {"background": 0, "gm": 1, "wm": 2}
    assert (document["numTraining"], document["numTest"]) == (9, 1)
    assert document["description"] == "MNI152 slabs"
    image = nib.load(dataset / "imagesTs" / "sub-slab03_T1w_0000.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert np.array_equal(image.get_sform(), image.get_qform())
    source = nib.load(image_of(bids, "sub-slab03"))
    assert np.array_equal(np.asarray(image.dataobj)[::-1], np.asarray(source.dataobj))
    assert image.get_data_dtype() == source.get_data_dtype()
    label = voxels(dataset / "labelsTs" / "sub-slab03_T1w.nii.gz")
    assert label.dtype == np.uint8
    for value, tail in ((1, "GM"), (2, "WM")):
        assert np.array_equal(label[::-1] == value, voxels(mask_of(bids, "sub-slab03", tail)) > 0)
    assert json.loads(mreg("data", "verify", dataset, "--json").stdout)["findings"] == []


def test_nothing_written_names_a_path_or_a_header_text(mreg, copy, tmp_path) -> None:
    path = image_of(copy, "sub-slab01")
    image = nib.load(path)
    image.header["descrip"] = b"Jane Doe, scanner 7"
    image.header["aux_file"] = b"/home/jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    dataset = imported(import_mni(mreg, copy, tmp_path / "raw"))
    for name, content in contents(dataset).items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"Jane" not in plain, name
        assert b"jane" not in plain, name
        assert str(tmp_path).encode() not in plain, name
        assert b"/home" not in plain, name


def test_the_same_import_twice_changes_nothing_and_another_is_refused(mreg, bids, tmp_path) -> None:
    dataset = imported(import_mni(mreg, bids, tmp_path / "raw"))
    before = contents(dataset)
    again = import_mni(mreg, bids, tmp_path / "raw")
    assert json.loads(import_mni(mreg, bids, tmp_path / "raw", "--json").stdout) == {"dataset": str(dataset)}
    assert imported(again) == dataset
    assert "already imported" in again.stderr
    for flags in (("--orientation", "LPI"), ("--folds", "leave-one-out"), ("--threshold", "0.9")):
        other = import_mni(mreg, bids, tmp_path / "raw", *flags)
        assert other.exit_code == 1
        assert "exists with other content" in other.stderr
    taken = import_mni(mreg, bids, tmp_path / "raw", "--name", "Other")
    assert taken.exit_code == 1
    assert "belongs to" in taken.stderr
    assert contents(dataset) == before
    (dataset / "imagesTr" / "sub-slab01_T1w_0000.nii.gz").unlink()
    lost = import_mni(mreg, bids, tmp_path / "raw")
    assert lost.exit_code == 1
    assert "sub-slab01_T1w_0000.nii.gz is gone" in lost.stderr


def test_two_imports_of_one_source_write_the_same_bytes(mreg, bids, tmp_path) -> None:
    first, second = (imported(import_mni(mreg, bids, tmp_path / name)) for name in ("one", "two"))
    assert contents(first) == contents(second)


def test_a_changed_voxel_makes_it_another_dataset(mreg, copy, tmp_path) -> None:
    imported(import_mni(mreg, copy, tmp_path / "raw"))
    change(image_of(copy, "sub-slab05"), lambda array, affine: (np.roll(array, 1), affine))
    assert import_mni(mreg, copy, tmp_path / "raw").exit_code == 1


def test_an_import_without_space_leaves_nothing(mreg, bids, tmp_path, monkeypatch) -> None:
    written = []
    write_case = importer.write_case

    def die(*arguments):
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(tmp_path))
        written.append(write_case(*arguments))

    monkeypatch.setattr(importer, "write_case", lambda *arguments: die(*arguments) or [])
    result = import_mni(mreg, bids, tmp_path / "raw")
    assert result.exit_code == 1
    assert "no space left" in result.stderr
    assert not list((tmp_path / "raw").iterdir())


def kill_an_import(bids: Path, raw: Path) -> None:
    """Kill an import when it has written its first image; on a busy machine it may be over sooner than we look."""
    words = [*COMMAND, "data", "import", str(bids), str(raw), "--dataset-id", "7", *FLAGS]
    for _ in range(5):
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and not any(raw.glob(".*.part/imagesTr/*")):
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        if child.wait() == -signal.SIGKILL:
            return
        shutil.rmtree(raw)
    pytest.fail("the import was always over before it could be killed")


def test_a_killed_import_leaves_no_dataset_and_the_next_one_completes_it(mreg, bids, tmp_path) -> None:
    expected = contents(imported(import_mni(mreg, bids, tmp_path / "whole")))
    raw = tmp_path / "raw"
    kill_an_import(bids, raw)
    assert [path.name for path in raw.iterdir()] == [".Dataset007_GmWmT1w.part"]
    dataset = imported(import_mni(mreg, bids, raw))
    assert contents(dataset) == expected
    assert [path.name for path in raw.iterdir()] == [dataset.name]


def test_two_imports_at_once_make_one_dataset(bids, tmp_path) -> None:
    words = [*COMMAND, "data", "import", str(bids), str(tmp_path / "raw"), "--dataset-id", "7", *FLAGS]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    assert sum("already imported" in stderr for _, stderr in ends) == 1
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset007_GmWmT1w"]


def test_an_import_names_all_bad_files_at_once(mreg, copy, tmp_path) -> None:
    cut = image_of(copy, "sub-slab01")
    cut.write_bytes(cut.read_bytes()[:1000])
    change(mask_of(copy, "sub-slab02", "GM"), lambda a, m: (a, m + np.diag([0, 0, 0.5, 0])))
    change(mask_of(copy, "sub-slab03", "WM"), lambda a, m: (a[:-1], m))

    def nan(array, affine):
        array = array.astype(np.float32)
        array[3, 3, 3] = np.nan
        return array, affine

    change(image_of(copy, "sub-slab04"), nan)
    rotten = bytearray(mask_of(copy, "sub-slab05", "WM").read_bytes())
    rotten[-8] ^= 1  # the checksum, which a reader that stops at the last voxel never sees
    mask_of(copy, "sub-slab05", "WM").write_bytes(rotten)
    mask_of(copy, "sub-slab06", "GM").write_bytes(b"")
    change(image_of(copy, "sub-slab07"), lambda a, m: (np.stack([a, a], axis=3), m))
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert result.exit_code == 1
    lines = dict(re.findall(r"sub-(slab\d\d)_T1w\S*: (.+)", result.stderr))
    assert "cannot be read" in lines["slab01"]
    assert "mm away" in lines["slab02"]
    assert "voxels, not" in lines["slab03"]
    assert "1 voxels are NaN or infinite" in lines["slab04"]
    assert "CRC" in lines["slab05"]
    assert "cannot be read" in lines["slab06"]
    assert "expected one volume" in lines["slab07"]
    assert result.stderr.count("error:") == 1
    assert not list((tmp_path / "raw").iterdir())


@pytest.mark.parametrize("linked", [True, False])
def test_files_that_git_annex_has_not_fetched_are_told(mreg, copy, tmp_path, linked) -> None:
    image = image_of(copy, "sub-slab01")
    image.unlink()
    if linked:
        image.symlink_to("../../.git/annex/objects/xx/yy/KEY/KEY")
    else:
        image.write_text("/annex/objects/MD5E-s1048576--d41d8cd98f00b204e9800998ecf8427e.nii.gz\n")
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert result.exit_code == 1
    assert "git annex get" in result.stderr
    assert "sub-slab01_T1w.nii.gz" in result.stderr
    assert not (tmp_path / "raw").exists()


def test_the_commit_of_a_clone_is_recorded(mreg, copy, tmp_path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", copy, *words], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "x")
    source = document_of(imported(import_mni(mreg, copy, tmp_path / "raw")))["source"]
    assert (source["kind"], source["commit"], source["dirty"]) == ("bids", git("rev-parse", "HEAD"), False)
    change(image_of(copy, "sub-slab05"), lambda array, affine: (np.roll(array, 1), affine))
    source = document_of(imported(import_mni(mreg, copy, tmp_path / "raw2")))["source"]
    assert source["dirty"] is True


def test_what_cannot_be_deduced_is_listed(mreg, bids, tmp_path) -> None:
    result = mreg("data", "import", bids, tmp_path / "raw", "--dataset-id", 7)
    assert result.exit_code == 1
    assert "GM_seg (10)" in result.stderr
    assert "WM_seg (10)" in result.stderr
    assert "--label" in result.stderr
    assert not (tmp_path / "raw").exists()


def test_what_is_left_out_is_deduced_where_the_tree_leaves_one_possibility(mreg, copy, tmp_path) -> None:
    for mask in (copy / MASKS).rglob("*label-WM_seg*"):
        mask.unlink()
    document = document_of(imported(mreg("data", "import", copy, tmp_path / "raw", "--dataset-id", 7)))
    assert document["labels"] == {"background": 0, "gm": 1}
    assert document["channel_names"] == {"0": "T1w"}
    assert document["name"] == "GmT1w"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--test-subject", "sub-99"), "sub-99 has no labelled image"),
        (("--orientation", "rpi"), "none of the 48 codes"),
        (("--threshold", "1.5"), "--threshold 1.5"),
        (("--threshold", "nan"), "--threshold nan"),
        (("--contrast", "T2w"), "T1w: "),
        (("--region", "gm=gm+lesion"), "no --label named lesion"),
        (("--region", "wm=gm+wm"), "writes"),  # white matter would be written over grey matter
        (("--label", "background=GM_seg"), "background is 3"),
        (("--label", "sc=SC_seg"), "no image has the masks GM_seg, SC_seg, WM_seg"),
        (("--name", "a/b"), "letters, digits"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_error(mreg, bids, tmp_path, flags, said) -> None:
    result = import_mni(mreg, bids, tmp_path / "raw", *flags)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("error:") == 1
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    "flags", [("--label", "gm"), ("--label", "gm=WM_seg"), ("--folds", "1"), ("--folds", "many"), ("--dataset-id", "0")]
)
def test_a_flag_that_cannot_be_read_is_a_usage_error(mreg, bids, tmp_path, flags) -> None:
    assert import_mni(mreg, bids, tmp_path / "raw", *flags).exit_code == 2


def test_a_source_that_is_no_tree_is_one_error(mreg, bids, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "none", tmp_path / "empty", bids / "sub-slab01"):
        result = mreg("data", "import", source, tmp_path / "raw", "--dataset-id", 7)
        assert result.exit_code == 1
        assert result.stderr.count("error:") == 1


def test_a_case_without_its_mask_is_left_out_aloud(mreg, copy, tmp_path) -> None:
    mask_of(copy, "sub-slab05", "WM").unlink()
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert document_of(imported(result))["numTraining"] == 8
    assert "left out: sub-slab05_T1w: no mask WM_seg" in result.stderr


def test_a_soft_mask_counts_above_the_threshold(mreg, copy, tmp_path) -> None:
    soft = np.zeros(nib.load(mask_of(copy, "sub-slab01", "GM")).shape, dtype=np.float32)
    soft[0, 0, :4] = (0.2, 0.5, 0.7, 1.0)
    change(mask_of(copy, "sub-slab01", "GM"), lambda a, m: (soft, m))
    change(mask_of(copy, "sub-slab01", "WM"), lambda a, m: (soft * 0, m))
    label = "labelsTr/sub-slab01_T1w.nii.gz"
    half = voxels(imported(import_mni(mreg, copy, tmp_path / "half")) / label)
    assert half[::-1][0, 0, :4].tolist() == [0, 0, 1, 1]
    low = voxels(imported(import_mni(mreg, copy, tmp_path / "low", "--threshold", "0.1")) / label)
    assert low[::-1][0, 0, :4].tolist() == [1, 1, 1, 1]


def test_scaled_numbers_become_float32_and_other_types_stay(mreg, copy, tmp_path) -> None:
    image = nib.load(image_of(copy, "sub-slab01"))
    array = np.asarray(image.dataobj)
    scaled = nib.Nifti1Image(array.astype(np.int16), image.affine)
    scaled.header.set_slope_inter(0.25, 10)
    content = bytearray(scaled.to_bytes())
    image_of(copy, "sub-slab01").write_bytes(gzip.compress(content))
    scaled = nib.load(image_of(copy, "sub-slab01"))
    assert scaled.dataobj.slope == 0.25
    for subject, kind in (("sub-slab02", np.float64), ("sub-slab04", np.int64), ("sub-slab05", np.int32)):
        array = voxels(image_of(copy, subject)).astype(kind)
        nib.save(nib.Nifti1Image(array, image.affine, dtype=kind), image_of(copy, subject))
        for label in ("GM", "WM"):
            change(mask_of(copy, subject, label), lambda a, m: (a, image.affine))
    dataset = imported(import_mni(mreg, copy, tmp_path / "raw"))
    kinds = {}
    for number in (1, 2, 4, 5):
        written = nib.load(dataset / "imagesTr" / f"sub-slab0{number}_T1w_0000.nii.gz")
        kinds[number] = written.get_data_dtype()
        assert np.allclose(np.asarray(written.dataobj)[::-1], voxels(image_of(copy, f"sub-slab0{number}")))
    assert kinds == {1: np.float32, 2: np.float64, 4: np.int64, 5: np.int32}


def test_an_image_without_an_orientation_in_its_header_is_warned_about(mreg, copy, tmp_path) -> None:
    path = image_of(copy, "sub-slab01")
    array = np.asarray(nib.load(path).dataobj)
    for target in (path, mask_of(copy, "sub-slab01", "GM"), mask_of(copy, "sub-slab01", "WM")):
        plain = nib.Nifti1Image(array if target == path else voxels(target), None)
        plain.header["sform_code"] = plain.header["qform_code"] = 0
        nib.save(plain, target)
    result = import_mni(mreg, copy, tmp_path / "raw")
    imported(result)
    assert "its header says no orientation; taken for RPI (SCT; nibabel LAS)" in result.stderr


def test_uncompressed_images_are_imported(mreg, copy, tmp_path) -> None:
    for path in copy.rglob("*slab01*.nii.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert (imported(import_mni(mreg, copy, tmp_path / "raw")) / "imagesTr" / "sub-slab01_T1w_0000.nii.gz").is_file()


def test_two_files_of_one_name_are_refused(mreg, copy, tmp_path) -> None:
    path = image_of(copy, "sub-slab01")
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    result = import_mni(mreg, copy, tmp_path / "raw")
    assert result.exit_code == 1
    assert "two files of one name" in result.stderr


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.sampled_from([None, 2, 3, 6, "leave-one-out"]))
def test_no_subject_stands_on_both_sides(sessions, folds) -> None:
    cases = [f"sub-{s:02d}_ses-{n}_T2w" for s, count in enumerate(sessions) for n in range(count)]
    splits = subject_splits(cases, folds)
    for split in splits:
        assert sorted([*split["train"], *split["val"]]) == sorted(cases) or len(cases) == 1
        if len(sessions) > 1:
            assert not {c[:6] for c in split["train"]} & {c[:6] for c in split["val"]}
    if len(cases) > 1:
        assert sorted(case for split in splits for case in split["val"]) == sorted(cases)
    if len(sessions) > 1:
        assert len(splits) == (len(sessions) if folds == "leave-one-out" else min(folds or 5, len(sessions)))
    assert splits == subject_splits(cases[::-1], folds)


def test_importing_bids_gives_the_voxels_of_the_raw_set(mreg, test_data, tmp_path) -> None:
    ours = imported(mreg(
        "data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 501, "--contrast", "T2w",
        "--test-subject", "errsm30", "--orientation", "LPI", "--name", "SpinalCordT2w",
    ))  # fmt: skip
    theirs = test_data / "nnUNet_raw" / "Dataset501_SpinalCordT2w"
    assert ours.name == theirs.name
    names = sorted(p.relative_to(theirs).as_posix() for p in theirs.rglob("*.nii.gz"))
    assert sorted(p.relative_to(ours).as_posix() for p in ours.rglob("*.nii.gz")) == names
    for name in names:
        a, b = nib.load(ours / name), nib.load(theirs / name)
        assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj)), name
        assert np.allclose(a.affine, b.affine, atol=1e-3), name
    wanted, written = document_of(theirs), document_of(ours)
    assert all(written[key] == wanted[key] for key in wanted if key not in ("description", "licence"))
    key = lambda split: split["val"]  # noqa: E731
    splits, expected = (sorted(json.loads((d / "splits_final.json").read_text()), key=key) for d in (ours, theirs))
    assert splits == expected


def test_pairs_of_contrasts_become_channels(mreg, test_data, tmp_path) -> None:
    dataset = imported(mreg(
        "data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 502,
        "--contrast", "flip-1_mt-off_MTS", "--contrast", "flip-1_mt-on_MTS",
    ))  # fmt: skip
    assert dataset.name == "Dataset502_ScMTS"
    assert sorted(p.name for p in (dataset / "imagesTr").iterdir()) == [
        f"sub-{subject}_MTS_000{channel}.nii.gz" for subject in ("errsm30", "unf05") for channel in (0, 1)
    ]
    source = test_data / "bids_sc" / "sub-unf05" / "anat"
    for channel, state in enumerate(("off", "on")):
        written = nib.load(dataset / "imagesTr" / f"sub-unf05_MTS_000{channel}.nii.gz")
        read = nib.load(source / f"sub-unf05_flip-1_mt-{state}_MTS.nii.gz")
        way = nib.orientations.ornt_transform(nib.io_orientation(read.affine), nib.io_orientation(written.affine))
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(read.as_reoriented(way).dataobj))
    assert mreg("data", "verify", dataset).exit_code == 0


def test_only_the_cases_with_all_masks_are_taken(mreg, test_data, tmp_path) -> None:
    result = mreg(
        "data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 503,
        "--label", "wm=SC_seg", "--label", "gm=GM_seg",
    )  # fmt: skip
    dataset = imported(result)  # T2star is deduced: no other contrast has both masks
    assert "sub-errsm18_T2star: no mask GM_seg" in result.stderr
    label = voxels(dataset / "labelsTr" / "sub-sctt2s_T2star.nii.gz")
    source = test_data / "bids_sc" / MASKS / "sub-sctt2s" / "anat"
    masks = {tail: voxels(source / f"sub-sctt2s_T2star_label-{tail}_seg.nii.gz") > 0.5 for tail in ("SC", "GM")}
    assert np.count_nonzero(label == 2) == np.count_nonzero(masks["GM"])
    assert np.count_nonzero(label == 1) == np.count_nonzero(masks["SC"] & ~masks["GM"])


def test_several_contrasts_are_listed(mreg, test_data, tmp_path) -> None:
    result = mreg("data", "import", test_data / "bids_sc", tmp_path, "--dataset-id", 503)
    assert result.exit_code == 1
    for line in ("T2w: SC_seg (13)", "flip-1_mt-off_MTS: SC_seg", "T2star: SC_seg (2)"):
        assert line in result.stderr


def test_regions_are_imported_as_nnunet_wants_them(mreg, test_data, tmp_path) -> None:
    dataset = imported(mreg(
        "data", "import", test_data / "bids_lesion", tmp_path, "--dataset-id", 510, "--label", "sc=SC_seg",
        "--label", "lesion=lesion_seg", "--region", "sc=sc+lesion", "--orientation", "AIL", "--name", "LesionSCT2w",
    ))  # fmt: skip
    theirs = test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
    document, wanted = document_of(dataset), document_of(theirs)
    assert document["labels"] == {"background": 0, "sc": [1, 2], "lesion": 2}
    assert list(document["labels"]) == list(wanted["labels"])
    assert document["regions_class_order"] == [1, 2]
    for path in sorted(theirs.rglob("*.nii.gz")):
        assert np.array_equal(voxels(path), voxels(dataset / path.relative_to(theirs))), path.name
    report = json.loads(mreg("data", "verify", dataset, "--json").stdout)
    assert report["findings"] == []


def test_an_auc23_folder_with_regions_is_imported(mreg, test_data, tmp_path) -> None:
    task = test_data / "auc23" / "raw" / "nnUNet_raw_data" / "Task520_SpineContrastLesion"
    dataset = imported(mreg("data", "import", task, tmp_path, "--dataset-id", 520, "--name", "Cord"))
    document = document_of(dataset)
    assert document["labels"] == {"background": 0, "spinal_cord": 1}
    assert (document["numTraining"], document["numTest"]) == (20, 6)
    assert document["description"].startswith("Contrast of the crop")
    assert mreg("data", "verify", dataset).exit_code == 0


def test_an_auc23_folder_without_masks_is_one_error(mreg, test_data, tmp_path) -> None:
    task = test_data / "auc23" / "raw" / "nnUNet_raw_data" / "Task521_SpineRegionT2w"
    result = mreg("data", "import", task, tmp_path / "raw", "--dataset-id", 521)
    assert result.exit_code == 1
    assert "0 of 16 training cases have a mask" in result.stderr
    assert not (tmp_path / "raw").exists()


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Return a Decathlon folder with one 4D image of two contrasts."""
    raw = write_dataset(tmp_path)
    root = tmp_path / "Task01_Four"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    image = nib.load(raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz")
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.stack([array, 255 - array], axis=3), image.affine), root / "imagesTr" / "case_1.nii.gz")
    shutil.copy(root / "imagesTr" / "case_1.nii.gz", root / "imagesTs" / "case_2.nii.gz")
    shutil.copy(raw / "labelsTr" / f"{CASES[0]}.nii.gz", root / "labelsTr" / "case_1.nii.gz")
    document = {
        "name": "Four",
        "description": "Two contrasts",
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "Background", "1": "grey matter", "2": "wm"},
        "training": [{"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz"}],
        "test": ["./imagesTs/case_2.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def import_task(mreg, task: Path, *more: object):
    return mreg("data", "import", task, task.parent / "raw", "--dataset-id", 9, *more)


def test_a_4d_decathlon_image_becomes_channels(mreg, task) -> None:
    result = import_task(mreg, task)
    dataset = imported(result)
    source = voxels(task / "imagesTr" / "case_1.nii.gz")
    for channel in (0, 1):
        written = voxels(dataset / "imagesTr" / f"case_1_000{channel}.nii.gz")
        assert np.array_equal(written[::-1], source[..., channel])
    document = document_of(dataset)
    assert document["channel_names"] == {"0": "T1", "1": "T2"}
    assert document["labels"] == {"background": 0, "grey_matter": 1, "wm": 2}
    assert document["description"] == "Two contrasts"
    assert "1 files without a mask" in result.stderr
    assert mreg("data", "verify", dataset).exit_code == 0


def test_a_version_1_folder_below_a_git_annex_clone_is_read_through_its_links(mreg, task) -> None:
    objects = task.parent / "objects"
    objects.mkdir()
    for path in task.rglob("*.nii.gz"):
        stored = objects / f"{path.parent.name}-{path.name}"
        path.rename(stored)
        path.symlink_to(os.path.relpath(stored, path.parent))
    assert imported(import_task(mreg, task)).is_dir()


BROKEN_TASKS = {
    "outside": lambda d: d["training"][0].update(image="../../etc/passwd"),
    "'/etc/passwd' lies outside": lambda d: d["training"][0].update(label="/etc/passwd"),
    "no image": lambda d: d["training"].append({}),
    "1 of 2 training cases": lambda d: d["training"].append({"image": "./imagesTr/x.nii.gz"}),
    "no list of training cases": lambda d: d.update(training={}),
    "labels is": lambda d: d.update(labels={"background": 0, "sc": 1}),
    "modality is": lambda d: d.update(modality=["T1"]),
    "expected 3 volumes": lambda d: d["modality"].update({"2": "PD"}),
    "does not know: 2": lambda d: d["labels"].pop("2"),
    "one name twice": lambda d: d["labels"].update({"2": "grey-matter"}),
    "no such file": lambda d: d["training"][0].update(label="labelsTr/other.nii.gz"),
    "several images would be case case_1": lambda d: d["training"].append(d["training"][0]),
}


@pytest.mark.parametrize("said", sorted(BROKEN_TASKS))
def test_a_broken_version_1_folder_is_one_clear_error(mreg, task, said) -> None:
    path = task / "dataset.json"
    document = json.loads(path.read_text())
    BROKEN_TASKS[said](document)
    path.write_text(json.dumps(document))
    result = import_task(mreg, task)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("error:") == 1
    assert not list(task.parent.glob("raw/*"))


def test_flags_of_bids_are_refused_for_a_version_1_folder(mreg, task) -> None:
    result = import_task(mreg, task, "--test-subject", "sub-01")
    assert result.exit_code == 1
    assert "leave --test-subject out" in result.stderr
