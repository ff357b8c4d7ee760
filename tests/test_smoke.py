"""Archives are run on an image and held against what the manifest says that they gave."""

import base64
import json
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fixtures_model import write_model
from fixtures_run import NAME, TRAINER_FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from registry import manifest, orientation, reference, reference_image, smoke, workers
from registry.checks import check
from registry.errors import IntegrityError, MregError
from registry.manifest import MANIFEST_NAME, LabelMap, ReferenceImage
from registry.volumes import read_volume

TAG = "r20260131"
FINAL = f"{TRAINER_FOLDER}/fold_0/checkpoint_final.pth"
IMAGE = ReferenceImage(kind="file", shape=(1, 1, 1), sha256="0" * 64)


@pytest.fixture
def here(monkeypatch):
    """Predict in this process, which has torch already: a process of its own takes seconds to start."""
    from trainers.segmentation import predict

    threads = torch.get_num_threads()
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setattr(workers, "call", lambda _, job: predict.run(job))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def packed(tiny_run, tmp_path_factory) -> Path:
    """An archive beside its manifest, which has a reference: both made by the real command."""
    from click.testing import CliRunner

    from registry.cli import group

    out = tmp_path_factory.mktemp("packed")
    done = CliRunner().invoke(group, ["package", str(tiny_run), "--tag", TAG, "-o", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return Path(done.stdout.strip())


def changed(packed: Path, folder: Path, change=None, name: str = FINAL) -> Path:
    """Write the archive anew with one member changed (None: left out), beside the same manifest."""
    folder.mkdir()
    shutil.copy(packed.parent / MANIFEST_NAME, folder)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(folder / packed.name, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == name:
                if change is None:
                    continue
                (folder / "member").write_bytes(data)
                change(folder / "member")
                data = (folder / "member").read_bytes()
            new.writestr(member, data)
    return folder / packed.name


def weights(edit):
    """Return a change of a checkpoint's last layer: its weights and its bias."""

    def change(path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        with torch.no_grad():
            tensors = checkpoint["network_weights"]
            last = [key for key in tensors if "seg_layers" in key]
            assert last
            for key in last:
                edit(key, tensors[key])
        torch.save(checkpoint, path)

    return change


def only_background(key, tensor) -> None:
    tensor.zero_()
    if key.endswith("bias"):
        tensor[0] = 1


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def an_image(folder: Path, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).normal(size=(20, 18, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1, 1, 1])), folder / f"image-{seed}.nii.gz")
    return folder / f"image-{seed}.nii.gz"


# ---- the archive against its reference


def test_the_command_runs_the_archive_in_a_process_of_its_own_and_finds_the_same_bytes(mreg, packed):
    result = mreg("check", packed, "--run", "--json")
    assert result.exit_code == 0, result.stdout
    (note,) = [f for f in json.loads(result.stdout)["findings"] if f["code"].startswith("SMOKE")]
    assert note["code"] == "SMOKE006"
    assert "agreement with the reference 1.0000, same bytes" in note["message"]
    megabytes = float(note["message"].split(" MB")[0].split()[-1])
    assert 100 < megabytes < 4000  # torch alone takes more than the lower one


def test_the_manifest_holds_the_output_itself_and_nothing_of_clock_or_host(packed):
    stored = manifest.read(packed.parent / MANIFEST_NAME).models[0].reference
    labels = reference.decode(stored.map, stored.image.shape)
    assert reference.digest_of(labels) == stored.sha256
    assert reference.count(labels) == stored.voxels
    assert 0 < stored.voxels["1"] < labels.size
    assert set(stored.versions) == {"torch", "nnunetv2", "numpy", "scipy"}
    assert set(stored.model_dump(exclude_none=True)) == {"image", "sha256", "voxels", "map", "versions"}


def test_other_weights_are_found_by_their_output(here, packed, tmp_path):
    flipped = weights(lambda _, tensor: tensor.neg_())
    report = check(changed(packed, tmp_path / "other", flipped), run=True)
    (finding,) = [finding for finding in report.findings if finding.code == "SMOKE003"]
    assert finding.level == "error"
    assert "agreement with the reference 0." in finding.message
    assert "the reference was made with torch" in finding.hint


def test_another_orientation_in_the_archive_is_found_by_its_output(here, packed, tmp_path):
    def turn(path: Path) -> None:
        path.write_text(path.read_text().replace('"RPI"', '"AIL"'))

    archive = changed(packed, tmp_path / "turned", turn, f"{TRAINER_FOLDER}/dataset.json")
    assert codes(smoke.findings(archive)) == ["SMOKE003", "SMOKE006"]


def test_an_output_without_labels_is_an_error_where_the_reference_has_some(here, packed, tmp_path):
    archive = changed(packed, tmp_path / "empty", weights(only_background))
    assert codes(smoke.findings(archive)) == ["SMOKE002", "SMOKE006"]


def test_without_a_reference_only_a_named_image_makes_an_empty_output_an_error(here, packed, tmp_path):
    archive = changed(packed, tmp_path / "empty", weights(only_background))
    (archive.parent / MANIFEST_NAME).unlink()
    assert codes(smoke.findings(archive)) == ["SMOKE004", "SMOKE005", "SMOKE006"]
    assert codes(smoke.findings(archive, image=an_image(tmp_path))) == ["SMOKE002", "SMOKE005", "SMOKE006"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (FINAL, None, "no fold has a checkpoint_final.pth"),
        (FINAL, lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged"),
        (f"{TRAINER_FOLDER}/plans.json", None, "plans.json: no such file"),
        (f"{TRAINER_FOLDER}/dataset.json", lambda path: path.write_text("{}"), "has no channel_names"),
    ],
)
def test_an_archive_that_cannot_be_run_is_a_finding_without_temporary_paths(
    here, packed, tmp_path, monkeypatch, name, change, message
):
    monkeypatch.setattr(workers, "call", in_one_error(workers.call))
    (finding,) = smoke.findings(changed(packed, tmp_path / "broken", change, name))
    assert finding.code == "SMOKE001"
    assert message in finding.message
    assert "mreg-smoke-" not in finding.message


def in_one_error(call):
    """Raise what a worker's process would answer."""
    from trainers.core.errors import TrainingError

    def called(*arguments):
        try:
            return call(*arguments)
        except TrainingError as error:
            raise MregError(error.message, hint=error.hint) from error

    return called


def test_two_trainer_folders_are_as_unusable_as_they_are_in_sct(packed, tmp_path):
    archive = changed(packed, tmp_path / "two", lambda _: None)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("nnUNetTrainerOther__nnUNetPlans__2d/plans.json", "{}")
    (finding,) = smoke.findings(archive)
    assert finding.code == "SMOKE001"
    assert "2 names that start with nnUNetTrainer" in finding.message


def test_best_checkpoints_are_taken_where_there_are_no_final_ones(here, packed, tmp_path):
    (tmp_path / "best").mkdir()
    shutil.copy(packed.parent / MANIFEST_NAME, tmp_path / "best")
    archive = tmp_path / "best" / packed.name
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(archive, "w") as new:
        for member in old.namelist():
            new.writestr(member.replace("checkpoint_final", "checkpoint_best"), old.read(member))
    assert smoke.run(archive).sha256_equal


def test_all_folds_and_all_channels_are_run(here, tmp_path):
    write_model(tmp_path / "model" / TRAINER_FOLDER, channels=2, folds=("0", "1"))
    archive = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "model"))
    both = smoke.make_reference(archive)
    shutil.rmtree(tmp_path / "model" / TRAINER_FOLDER / "fold_1")
    one = smoke.make_reference(Path(shutil.make_archive(str(tmp_path / "one"), "zip", tmp_path / "model")))
    assert one.image == both.image
    assert one.sha256 != both.sha256


def test_without_torch_there_is_one_error_that_says_so(mreg, packed, monkeypatch):
    monkeypatch.setattr(workers, "installed", lambda: False)
    result = mreg("check", packed, "--run")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("error:") == 1
    assert "torch and nnunetv2 are not installed" in result.stderr
    assert "mreg[train]" in result.stderr


# ---- making it


def test_package_can_leave_it_out_and_says_when_it_must(mreg, tiny_run, tmp_path, monkeypatch):
    def package(out: str, *words: object):
        done = mreg("package", tiny_run, "--tag", TAG, "-o", tmp_path / out, *words)
        assert done.exit_code == 0, done.stderr
        return manifest.read(tmp_path / out / MANIFEST_NAME).models[0].reference, done.stderr

    made, said = package("left-out", "--no-reference")
    assert made is None
    assert "reference" not in said
    monkeypatch.setattr(workers, "installed", lambda: False)
    made, said = package("light")
    assert made is None
    assert "mreg[train]" in said


def test_a_named_image_leaves_its_digest_and_no_name(here, mreg, tiny_run, tmp_path):
    image = an_image(tmp_path)
    words = ("package", tiny_run, "--tag", TAG, "--reference-image", image)
    texts = []
    for out in ("one", "other"):
        assert mreg(*words, "-o", tmp_path / out).exit_code == 0
        texts.append((tmp_path / out / MANIFEST_NAME).read_bytes())
    assert texts[0] == texts[1]
    assert image.name.encode() not in texts[0]
    archive = tmp_path / "one" / f"{NAME}-{TAG}.zip"
    assert smoke.run(archive, image=image).sha256_equal
    assert codes(smoke.findings(archive, image=an_image(tmp_path, 1))) == ["SMOKE005", "SMOKE006"]
    (about, _) = smoke.findings(archive)
    assert about.code == "SMOKE005"
    assert about.hint == "name that file: --image"


def test_packaging_again_keeps_the_reference_of_the_same_archive_and_image(packed, tmp_path, monkeypatch):
    path = packed.parent / MANIFEST_NAME
    stored = manifest.read(path).models[0].reference
    assert smoke.kept_reference(packed, path, None) == stored
    assert smoke.kept_reference(packed, path, an_image(tmp_path)) is None
    other = changed(packed, tmp_path / "other", lambda file: file.write_bytes(b"x"))
    assert smoke.kept_reference(other, path, None) is None


def test_an_image_that_is_none_is_refused_before_anything_is_packed(mreg, tiny_run, tmp_path):
    (tmp_path / "image.nii.gz").write_text("not an image")
    words = ("--tag", TAG, "-o", tmp_path / "out", "--reference-image", tmp_path / "image.nii.gz")
    result = mreg("package", tiny_run, *words)
    assert result.exit_code == 1
    assert "image.nii.gz" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- the bundled image


@pytest.mark.parametrize(
    ("dimensions", "code", "spacing", "box"),
    [
        (3, "RPI", (1.0, 1.0, 1.0), (16, 16, 16)),
        (3, "RPI", (5.0, 2.0, 2.0), (32, 32, 32)),
        (3, "RPI", (5.0, 9.0, 9.0), (64, 64, 64)),
        (2, "RPI", (5.0, 2.0, 2.0), (32, 32, 8)),
        (2, "AIL", (5.0, 2.0, 2.0), (8, 32, 32)),
        (2, "LIP", (5.0, 2.0, 2.0), (32, 8, 32)),
    ],
)
def test_the_bundled_image_is_about_a_patch_of_the_network(tmp_path, dimensions, code, spacing, box):
    model = write_model(tmp_path / TRAINER_FOLDER, dimensions=dimensions, spacing=spacing, orientation=code)
    if dimensions == 2:
        model = model.rename(tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    volume = reference_image.bundled(model)
    assert volume.array.shape == box
    assert volume.array.std() > 10
    assert orientation.of_affine(volume.affine) == "LPI"
    assert np.array_equal(volume.array, reference_image.bundled(model).array)


@pytest.mark.parametrize("text", ["[]", "{}", '{"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}}'])
def test_plans_without_a_patch_take_the_smallest_piece(tmp_path, text):
    model = tmp_path / TRAINER_FOLDER
    model.mkdir()
    (model / "plans.json").write_text(text)
    assert reference_image.box_mm(model) == (16, 16, 16)


def test_the_digest_of_an_image_is_of_its_voxels_and_place_and_not_of_its_file(tmp_path):
    first = an_image(tmp_path)
    image = nib.load(first)
    nib.save(image, tmp_path / "plain.nii")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), np.diag([1.0, 1, 1, 1])), tmp_path / "moved.nii")
    one, plain, moved = (
        reference.image_of(read_volume(path), "file")
        for path in (first, tmp_path / "plain.nii", tmp_path / "moved.nii")
    )
    assert one == plain
    assert one.sha256 != moved.sha256


# ---- label maps in text


maps = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 3))


@given(maps)
@settings(deadline=None, max_examples=60)
def test_encode_and_decode_are_inverse(labels):
    packed = reference.encode(labels)
    assert np.array_equal(reference.decode(packed, labels.shape), labels)
    assert reference.agreement(labels, reference.describe(labels, IMAGE)) == 1


@given(maps, st.data())
@settings(deadline=None, max_examples=60)
def test_agreement_is_the_part_of_labelled_voxels_that_are_equal(labels, data):
    other = data.draw(arrays.arrays(np.uint8, labels.shape, elements=st.integers(0, 3)))
    stored = reference.describe(other, IMAGE)
    pairs = [(a, b) for a, b in zip(labels.ravel(), other.ravel(), strict=True) if a or b]
    wanted = sum(a == b for a, b in pairs) / len(pairs) if pairs else 1
    assert reference.agreement(labels, stored) == pytest.approx(wanted)
    assert reference.agreement(labels, stored.model_copy(update={"map": None})) >= wanted - 1e-12
    assert (reference.digest_of(labels) == stored.sha256) == np.array_equal(labels, other)


def test_long_runs_cost_little_and_noise_is_left_out():
    labels = np.zeros((300, 300, 300), np.uint8)
    labels[10:290, 10:290, 10:290] = 2
    labels[150, 150, 150] = 0
    packed = reference.encode(labels)
    assert (packed.start, packed.shape) == ((10, 10, 10), (280, 280, 280))
    assert len(packed.runs) < 100
    assert np.array_equal(reference.decode(packed, labels.shape), labels)
    assert reference.encode(np.random.default_rng(0).integers(0, 2, (64, 64, 64), np.uint8)) is None
    assert reference.encode(np.full((2, 2, 2), 300, np.uint16)) is None


@given(st.binary(max_size=24), st.tuples(*[st.integers(0, 5)] * 3), st.tuples(*[st.integers(0, 5)] * 3))
@settings(deadline=None, max_examples=100)
def test_any_runs_are_a_map_or_one_error(data, start, shape):
    packed = LabelMap(start=start, shape=shape, runs=base64.b64encode(data).decode())
    fits = all(first + size <= 5 for first, size in zip(start, shape, strict=True))
    try:
        labels = reference.decode(packed, (5, 5, 5))
    except IntegrityError as error:
        labels, message = None, error.message
    if labels is None:
        assert message.startswith("the manifest's reference is broken")
    else:
        assert fits
        assert labels.shape == (5, 5, 5)
