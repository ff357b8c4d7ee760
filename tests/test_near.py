"""What was probably meant is told with the error."""

import pytest

from registry import cases, model_toml, runs
from registry.errors import MregError


@pytest.fixture
def repo(mreg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mreg("new", "model_seg_sc_t2", "--local").exit_code == 0
    monkeypatch.chdir(tmp_path / "model_seg_sc_t2")
    return tmp_path / "model_seg_sc_t2"


def test_a_mistyped_path_is_told_with_its_nearest_neighbour(mreg, repo, tmp_path):
    (repo / "runs" / "3d_fullres-1a2b3c4d").mkdir(parents=True)
    (repo / "sub-01_T2w.nii.gz").touch()
    for arguments in (
        ("predict", "runs/3d_fulres-1a2b3c4d", "x.nii.gz", "-o", "out"),
        ("package", "runs/3d_fullres-1a2b"),
    ):
        result = mreg(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "hint: did you mean runs/3d_fullres-1a2b3c4d?" in result.stderr, result.stderr
    for verb in ("train", "release"):
        result = mreg(verb, tmp_path / "model_seg_sc_t1")
        assert result.exit_code == 1
        assert f"did you mean {repo}?" in result.stderr
    with pytest.raises(MregError, match="no such image") as caught:
        cases.group_images(["sub-1_T2w.nii.gz"], 1)
    assert caught.value.hint == "did you mean sub-01_T2w.nii.gz?"
    with pytest.raises(MregError, match="no such run") as caught:
        runs.read_run(tmp_path / "nothing" / "like" / "it")
    assert "mreg train prints" in caught.value.hint


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"train": {"epoch": 5}}, "unknown key 'train.epoch': did you mean epochs?"),
        ({"modl": {}}, "unknown key 'modl': did you mean model?"),
        ({"train": {"licence": "MIT"}}, "unknown key 'train.licence': it belongs under [model]"),
        ({"sct": {"colour": 1}}, "unknown key 'sct.colour'"),
    ],
)
def test_a_mistyped_key_of_model_toml_is_told_with_the_one_that_was_meant(document, said):
    with pytest.raises(MregError) as caught:
        model_toml.validate({"model": {"name": "model_seg_sc"}, **document})
    assert caught.value.message == f"model.toml: {said}"


def test_a_mistyped_setting_or_fold_is_told_with_what_there_is(mreg, repo):
    (repo / "data" / "raw" / "Dataset501_Sc").mkdir(parents=True)
    mistyped = mreg("train", "--set", "epoch=5")
    assert (mistyped.exit_code, mistyped.stdout) == (1, "")
    assert "unknown key 'epoch': did you mean epochs?" in mistyped.stderr
    fold = mreg("train", "--fold", "x")
    assert fold.exit_code == 2
    assert "'x' is neither a number nor all" in fold.stderr


@pytest.mark.parametrize(
    ("key", "said"), [("registy", "did you mean registry?"), ("colour", "there are: registry, slurm")]
)
def test_a_mistyped_key_of_the_users_file_sends_nobody_to_another_registry(mreg, tmp_path, monkeypatch, key, said):
    monkeypatch.delenv("MREG_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "mreg").mkdir()
    (tmp_path / "mreg" / "config.toml").write_text(f'{key} = "dir:{tmp_path}"\n[slurm]\n')
    result = mreg("list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"config.toml: unknown key '{key}'\nhint: {said}\n" in result.stderr
