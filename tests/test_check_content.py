"""Rules that compare: a name with its content, a model with its training images, a trainer with SCT's Python."""

import inspect
import io
import json
import shutil
from pathlib import Path

import nnunetv2
import pytest
from check_examples import png_bytes
from dynamic_network_architectures.architectures import unet
from fixtures_dataset import write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.checks import at_hand, check, repo
from registry.checks.contract import packages
from registry.checks.png import texts
from registry.checks.trainer import TrainerFile
from registry.checks.trainer import findings as trainer_findings
from registry.checks.truth import Claim, findings, name_in
from registry.findings import Report
from registry.scaffold_files import plan, render
from registry.tree import DiskTree


@pytest.fixture
def said(tmp_path):
    """Return the codes that a name, labels and channels give."""

    def judge(name: str, labels=(), channels=("MRI",), configuration: str = "") -> list[str]:
        document = {
            "labels": {"background": 0} | {label: number for number, label in enumerate(labels, start=1)},
            "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        }
        (tmp_path / "dataset.json").write_text(json.dumps(document))
        claim = Claim(name, DiskTree(tmp_path), "dataset.json", configuration, ("model.toml", None))
        return [finding.code for finding in findings(claim)]

    return judge


@pytest.mark.parametrize(
    ("name", "labels", "codes"),
    [
        ("model_seg_sc_t2", ["sc"], []),
        ("model_seg_t2", ["Spinal cord"], []),
        ("model_seg_sc-lesion_ms_t2", ["sc", "label-lesion_seg"], []),
        ("model_seg_sci", ["sc", "lesion"], ["NAME006"]),
        ("model_seg_gm-wm_t2star", ["gray matter", "WM"], []),
        ("model_seg_gm-wm_t2star", ["gm"], ["NAME006"]),
        ("model_seg_rootlets_t2", ["lvl1", "lvl2"], []),
        ("model_seg_canal_t2", ["canal_seg"], []),
        ("model_seg_sc_t2", ["thing"], []),
        ("model_seg_spine_t2", ["vertebrae", "disc", "sc"], []),
        ("model_label_disc_t2", ["disc_C2"], []),
        ("model_seg_gm_t2", ["sc"], ["NAME006", "NAME006"]),
        ("no name at all", ["gm"], []),
    ],
)
def test_labels_are_held_against_the_anatomy(name, labels, codes, said):
    assert said(name, labels) == codes


@pytest.mark.parametrize(
    ("name", "channels", "codes"),
    [
        ("model_seg_sc_t2", ["T2w"], []),
        ("model_seg_sc_t2", ["T1w"], ["NAME004"]),
        ("model_seg_sc_t1-t2", ["T2w"], []),  # one image of either contrast
        ("model_seg_sc_t1-t2", ["T1w", "T2w"], []),
        ("model_seg_sc_t1-t2", ["a", "b", "c"], ["NAME004"]),
        ("model_seg_sc_t2", ["a", "b"], ["NAME004"]),
        ("model_seg_sc_agnostic", ["T1w", "T2w"], []),
        ("model_seg_sc_mp2rage", ["UNIT1"], []),
        ("model_seg_sc", ["T1w"], []),
    ],
)
def test_channels_are_held_against_the_contrasts(name, channels, codes, said):
    assert said(name, ["sc"], channels) == codes


@pytest.mark.parametrize(
    ("name", "configuration", "codes"),
    [
        ("model_seg_sc_t2_unet2d", "2d", []),
        ("model_seg_sc_t2_unet2d", "3d_fullres", ["NAME005"]),
        ("model_seg_sc_t2_unet3d", "2d", ["NAME005"]),
        ("model_seg_sc_t2_unet3d", "3d_lowres", []),
        ("model_seg_sc_t2_nnunet", "3d_fullres", []),
        ("model_seg_sc_t2_unet3d", "", []),
    ],
)
def test_the_configuration_is_held_against_the_architecture(name, configuration, codes, said):
    assert said(name, ["sc"], configuration=configuration) == codes


@pytest.mark.parametrize(
    ("archive", "name"),
    [
        ("model_seg_sc_t2-r20261121.zip", "model_seg_sc_t2"),
        ("model_seg_sc_t2-resencl-r20261121.zip", "model_seg_sc_t2"),
        ("model_seg_sc_t2-fold3-r20261121.zip", "model_seg_sc_t2"),
        ("model_seg_sc-gm_t2-v1.2.0.zip", "model_seg_sc-gm_t2"),
        ("model-canal-seg-r20261121.zip", ""),
        ("x.zip", ""),
    ],
)
def test_an_archives_name_holds_the_models(archive, name):
    assert name_in(archive) == name


@pytest.mark.parametrize(
    ("code", "hint"), [("RAS", "nibabel's letters"), ("RPI", "RPI (SCT; nibabel LAS)"), ("LPI", "")]
)
def test_a_contract_is_held_against_the_training_images(code, hint, tmp_path):
    root = tmp_path / "model_seg_gm-wm_t1"
    dataset = write_dataset(root / "data" / "raw")
    (root / "model.toml").write_text('[model]\nname = "model_seg_gm-wm_t1"\n')
    document = {**json.loads((dataset / "dataset.json").read_text()), "image_orientation": code}
    (root / "dataset.json").write_text(json.dumps(document))
    found = [finding for finding in check(root).findings if finding.code == "ORIENT006"]
    assert bool(found) == bool(hint)
    assert all(hint in finding.message and "LPI (SCT; nibabel RAS)" in finding.message for finding in found)
    assert at_hand.orientations(dataset) == {"LPI": 3}


def test_images_that_cannot_be_read_are_left_to_verify(tmp_path):
    dataset = write_dataset(tmp_path)
    next((dataset / "imagesTr").glob("*")).write_bytes(b"no image")
    (dataset / "imagesTr" / "empty_0000.nii.gz").write_bytes(b"")
    assert at_hand.orientations(dataset) == {"LPI": 2}
    assert at_hand.orientations(tmp_path / "nothing") == {}


def test_what_is_known_of_scts_packages_is_there_in_the_installed_ones():
    known = packages()
    root = Path(nnunetv2.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    for key in ("normalizations", "preprocessors", "readers", "label_managers"):
        assert known["sct"][key]
        assert all(f"class {name}(" in text for name in [*known["sct"][key], *known["newer"].get(key, [])])
    assert all(f"def {name}(" in text for name in known["sct"]["resampling"])
    assert all((root.parent / f"{module.replace('.', '/')}.py").is_file() for module in known["newer"]["modules"])
    for name, arguments in known["sct"]["arguments"].items():
        assert name in known["sct"]["architectures"]
        assert set(arguments) <= set(inspect.signature(getattr(unet, name)).parameters)


class Files:
    """A tree that lies nowhere, as that of a repo which is read through an API."""

    name = "model_seg_sc_t2"

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def files(self):
        return sorted(self.texts)

    def exists(self, path):
        return path in self.texts

    def size(self, path):
        return len(self.texts[path])

    def open(self, path):
        return io.BytesIO(self.read_bytes(path))

    def read_bytes(self, path):
        return self.texts[path].encode()

    def read_text(self, path):
        return self.texts[path]


def test_a_repo_is_judged_alike_wherever_it_lies():
    files = render(plan("model_seg_sc_t2", recipe="nnunet", licence="MIT", authors=("Ada Lovelace",)))
    assert list(repo.tree_findings(repo.RepoFiles(Files(files), "model_seg_sc_t2"))) == []
    files["trainer_class.py"] = "import wandb\n"
    files["model.toml"] = files["model.toml"].replace("model_seg_sc_t2", "model_sge_sc_t2")
    del files["LICENSE"]
    found = {(f.code, f.path) for f in repo.tree_findings(repo.RepoFiles(Files(files), "model_sge_sc_t2"))}
    assert {("NAME001", "model.toml"), ("REPO002", "LICENSE"), ("TRAINER004", "trainer_class.py")} <= found


BASE = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Mine(nnUNetTrainer):
    pass
"""
FUNCTION = "\n\ndef get_trainer_class(base=None):\n    return Mine\n"


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (BASE + FUNCTION, set()),
        (BASE + FUNCTION.replace("base=None", "*, base"), {"TRAINER006"}),
        (BASE + FUNCTION.replace("return Mine", "pass"), {"TRAINER006"}),
        (BASE + "\n\nclass Other(Mine):\n    pass\n" + FUNCTION.replace("return Mine", "return Other"), {"TRAINER006"}),
        (BASE + "\n\nimport os\nos.system('x')\n" + FUNCTION, {"TRAINER007", "TRAINER008"}),
        (BASE.replace("pass", "x = eval('1')") + FUNCTION, {"TRAINER008"}),
        (BASE + FUNCTION + "\n\ntry:\n    pass\nexcept* ValueError:\n    pass\n", {"TRAINER005"}),
        ("from . import other\n" + BASE + FUNCTION, {"TRAINER004"}),
        ("'\\d'\n" + BASE + FUNCTION, set()),
        ("(" * 5000, {"TRAINER002"}),
        ("x = " + "-" * 50_000 + "1\n", {"TRAINER002"}),
    ],
)
def test_a_trainer_class_is_read_and_never_imported(text, codes, tmp_path):
    (tmp_path / "trainer_class.py").write_text(text)
    file = TrainerFile(DiskTree(tmp_path), "trainer_class.py", frozenset({"Mine"}), released=True)
    assert {finding.code for finding in trainer_findings(file)} == codes


@pytest.mark.parametrize("chunk", ["tEXt", "zTXt", "iTXt", "eXIf"])
def test_every_kind_of_text_in_a_picture_is_read(chunk):
    ((kind, text),) = texts(png_bytes(chunk, "/home/jdoe/x"))
    assert kind == chunk
    assert "/home/jdoe/x" in text


@given(st.binary(max_size=60), st.integers(0, 120))
@settings(deadline=None, max_examples=100)
def test_a_damaged_picture_is_read_as_far_as_it_goes(noise, place):
    good = png_bytes("zTXt", "words")
    assert isinstance(texts(good[:place] + noise + good[place:]), list)


FILES = [
    "README.md",
    "CITATION.cff",
    "LICENSE",
    "model.toml",
    "dataset.json",
    ".gitignore",
    "trainer_class.py",
    "a.png",
]
SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SLOW
@given(name=st.sampled_from(FILES), data=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_a_repo_with_any_bytes_in_a_file_is_a_report(name, data, tmp_path):
    root = Path(tmp_path) / "model_seg_sc_t2"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "model.toml").write_text('[model]\nname = "model_seg_sc_t2"\n')
    (root / "dataset.json").write_text('{"labels": {"background": 0, "sc": 1}, "channel_names": {"0": "T2w"}}')
    (root / name).write_bytes(data)
    assert isinstance(check(root), Report)
