"""`mreg sct`: SCT's conditions, the endings of its files, and lines of code that Python can read."""

from __future__ import annotations

import ast
import json
import zipfile
from pathlib import Path

import pytest
from fixtures_release import TAG, add_repo, publish
from fixtures_run import DATASET_JSON, MODEL_TOML, TRAINER_FOLDER
from fixtures_stores import NAME, new_worktree
from hypothesis import given, settings
from hypothesis import strategies as st
from test_check_layouts import LAYOUTS, laid_out, members  # noqa: F401 - a fixture

from registry import checks, sct_stanza
from registry.sct_conditions import CONDITIONS, NOT_SCTS

ASSET = f"{NAME}-{TAG}.zip"


def answer(mreg, *args: object) -> tuple[int, dict]:
    """Return exit status and document of `mreg sct --json`."""
    result = mreg("sct", *args, "--json")
    return result.exit_code, json.loads(result.stdout)


def states(document: dict) -> dict[str, str]:
    return {condition["title"]: condition["state"] for condition in document["conditions"]}


def broken(document: dict) -> list[str]:
    return [code for condition in document["conditions"] if condition["state"] == "fail" for code in condition["codes"]]


def tables(source: str) -> dict[str, dict]:
    """Read Python's assignments of literals."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def rewritten(archive: Path, folder: Path, name: str = ASSET, **documents: dict) -> Path:
    """Copy an archive with other keys in its JSON files."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            stem = Path(member).stem
            if member.endswith(".json") and stem in documents:
                data = json.dumps({**json.loads(data), **documents[stem]}).encode()
            target.writestr(member, data)
    return path


# --- published releases ----------------------------------------------------------------------------------------------


def test_a_good_release_meets_every_condition_and_its_stanza_is_python(mreg, released, tiny_package):
    status, document = answer(mreg, NAME, "--registry", released.location)
    assert status == 0
    assert document["ok"]
    assert set(states(document).values()) <= {"pass", "not asked"}
    assert document["suffixes"] == ["_seg"]
    assert (document["key"], document["task"], document["tag"]) == (NAME, "sc_t2", TAG)
    asset = next(a for a in released.releases(NAME)[0].assets if a.name.endswith(".zip"))
    found = tables(document["python"])
    assert found["MODELS"] == {
        NAME: {
            "url": [asset.url],
            "description": "Segmentation of spinal cord on T2-weighted MRI",
            "contrasts": ["t2"],
            "framework": "nnunetv2",
            "thr": None,
            "default": False,
        }
    }
    task = found["TASKS"]["sc_t2"]
    keys = ["description", "long_description", "url", "models", "citation", "group", "priority"]
    assert list(task) == keys
    assert (task["models"], task["group"]) == ([NAME], "spinal_cord")
    assert "nnU-Net (3d_fullres) on 4 cases of Dataset501_SpinalCordT2w" in task["long_description"]
    assert "Mean Dice of sc: 0.900" in task["long_description"]
    assert document["install"] == f"sct_deepseg sc_t2 -install -custom-url {asset.url}"


def test_the_test_and_the_page_for_sct_name_task_and_files(mreg, released):
    _, document = answer(mreg, NAME, "--registry", released.location)
    function = ast.parse(document["test"]).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function.name == "test_sct_deepseg_sc_t2"
    assert '["_seg.nii.gz"]' in document["test"]
    title, line = document["documentation"].splitlines()[2:4]
    assert (title, set(line)) == ("sc_t2", {"="})
    assert len(line) >= len(title)


def test_the_address_of_a_github_release_is_asked_for_without_a_token(mreg, released_github, hub):
    status, document = answer(mreg, f"{NAME}@{TAG}", "--registry", released_github.location)
    assert status == 0
    assert states(document)["a public address, which wants no token"] == "pass"
    assert document["urls"][0][0].endswith(f"/releases/download/{TAG}/{ASSET}")
    asked = [r for r in hub.requests if r.path.endswith(f"/releases/download/{TAG}/{ASSET}")]
    assert asked
    assert not any("authorization" in {key.lower() for key in r.headers} for r in asked)


def test_a_release_that_strangers_cannot_fetch_breaks_a_condition(mreg, released_github, hub):
    hub.fault("GET", f"/releases/download/{TAG}/", "status", times=99, status=404)  # as of a private repository
    status, document = answer(mreg, NAME, "--registry", released_github.location)
    assert status == 1
    assert [title for title, state in states(document).items() if state == "fail"] == [
        "a public address, which wants no token"
    ]


def test_model_toml_names_task_citation_and_cropping(mreg, tiny_package, tmp_path):
    toml = MODEL_TOML.replace(
        "[data]", 'citation = "Løvelace 1843"\n\n[sct]\ntask = "cord"\ncropped_image = true\n\n[data]'
    )
    folder = tmp_path / "crop"
    folder.mkdir()
    (folder / "model.toml").write_text(toml, encoding="utf-8")
    archive = rewritten(tiny_package.archive, folder)
    status, document = answer(mreg, archive)
    assert status == 1
    assert tables(document["python"])["MODELS"][NAME]["cropped_image"] is True
    assert tables(document["python"])["TASKS"]["cord"]["citation"] == "Løvelace 1843"
    crop = next(c for c in document["conditions"] if c["title"].startswith("crop_metadata"))
    assert (crop["state"], crop["reasons"]) == ("fail", [f"none in {ASSET}"])


def test_a_release_reads_its_model_toml_from_the_registry(mreg, store, tiny_package, tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    new_worktree(folder, {"model.toml": (MODEL_TOML + '\n[sct]\ntask = "cord_t2"\n').encode()})
    store.create_repo(NAME, description="", topics=())
    store.push_first_commit(NAME, folder)
    publish(store, TAG, *tiny_package)
    _, document = answer(mreg, NAME, "--registry", store.location)
    assert document["task"] == "cord_t2"
    assert tables(document["python"])["MODELS"][NAME]["description"] == "Spinal cord on T2-weighted MRI"


def test_folds_in_several_archives_are_merged_by_sct_for_one_model_only(mreg, store, tiny_package, tmp_path):
    for name, status in (("seg_ms_lesion", 0), (NAME, 1)):
        add_repo(store, tmp_path / name, name=name)
        folds = [rewritten(tiny_package.archive, tmp_path / "a", f"{name}-fold{n}-{TAG}.zip") for n in range(2)]
        publish(store, TAG, *folds, name=name)
        code, document = answer(mreg, name, "--registry", store.location)
        key = f"model_{name}" if status == 0 else name
        url = tables(document["python"])["MODELS"][key]["url"]
        assert list(url) == ["fold0", "fold1"]
        assert all(address[0].endswith(f"fold{n}-{TAG}.zip") for n, address in enumerate(url.values()))
        assert code == status, document["conditions"]


# --- archives and addresses ------------------------------------------------------------------------------------------


def test_an_archive_that_is_not_released_has_the_address_that_it_will_have(mreg, tiny_package):
    status, document = answer(mreg, tiny_package.archive, "--registry", "github:ivadomed")
    assert status == 0
    assert document["urls"] == [[f"https://github.com/ivadomed/{NAME}/releases/download/{TAG}/{ASSET}"]]
    assert states(document)["a public address, which wants no token"] == "not asked"


def test_an_address_tells_repository_and_tag(mreg, released_github):
    url = next(a.url for a in released_github.releases(NAME)[0].assets if a.name == ASSET)
    status, document = answer(mreg, url)
    assert status == 0
    assert (document["name"], document["tag"], document["urls"]) == (NAME, TAG, [[url]])
    assert tables(document["python"])["TASKS"]["sc_t2"]["url"] == url.partition("/releases/")[0]


def test_weights_at_an_address_are_read_only_when_asked_for(mreg, github, tiny_package, tmp_path):
    big = rewritten(tiny_package.archive, tmp_path / "big")
    with zipfile.ZipFile(big, "a") as archive:
        archive.writestr(f"{TRAINER_FOLDER}/fold_1/checkpoint_final.pth", bytes(3_000_000))
    add_repo(github, tmp_path / "first")
    url = publish(github, TAG, big).assets[0].url
    title = "the checkpoints load, and run nothing while they do"
    status, document = answer(mreg, url)
    assert (status, states(document)[title]) == (0, "not read")
    status, document = answer(mreg, url, "--full")
    assert (status, states(document)[title]) == (1, "fail")
    assert "CKPT001" in broken(document)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["layout"])
def test_a_layout_that_stops_sct_breaks_a_condition(layout, members, mreg, tmp_path):  # noqa: F811 - a fixture
    path = tmp_path / ASSET
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in laid_out(layout, members).items():
            archive.writestr(name, data)
    status, document = answer(mreg, path)
    misplaced = "ARCHIVE008" in layout["codes"]  # somebody wants SCT to crop, and it would not
    assert (status == 1) == (layout["sct"] == "stops" or misplaced)
    assert set(broken(document)) <= set(layout["codes"])
    assert bool(broken(document)) == (status == 1)


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ({"dataset": {"channel_names": {"0": "T1w", "1": "T2w"}}}, "MODEL007"),
        ({"dataset": {"image_orientation": "rpi"}}, "ORIENT001"),
        ({"dataset": {"labels": {"background": 0, "canal_seg": 1}}}, "LABEL015"),
        ({"dataset": {"labels": {"background": 0, "a/b": 1}}}, "LABEL010"),
        ({"dataset": {"labels": {"background": 0, "sc": 1, "gm": 2, "wm": 3}}}, "MODEL008"),
        ({"dataset": {"labels": {"background": 0, "sc": 2}}}, "LABEL004"),
    ],
)
def test_a_dataset_json_that_sct_stumbles_over_breaks_a_condition(documents, code, mreg, tiny_package, tmp_path):
    status, document = answer(mreg, rewritten(tiny_package.archive, tmp_path, **documents))
    assert status == 1
    assert code in broken(document)
    reasons = [
        reason for condition in document["conditions"] if code in condition["codes"] for reason in condition["reasons"]
    ]
    assert all(reason.startswith("dataset.json: ") for reason in reasons)


def test_a_key_that_only_nnunet_wants_breaks_none(mreg, tiny_package, tmp_path):
    path = tmp_path / ASSET
    with zipfile.ZipFile(tiny_package.archive) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            if member.endswith("dataset.json"):
                data = json.dumps({k: v for k, v in DATASET_JSON.items() if k != "file_ending"}).encode()
            target.writestr(member, data)
    assert not checks.check(path).ok
    status, _ = answer(mreg, path)
    assert status == 0


def test_an_archive_that_nobody_named_well_is_called_as_its_file(mreg, tiny_package, tmp_path):
    _, document = answer(mreg, rewritten(tiny_package.archive, tmp_path, "EPI_cord-v0.2.zip"))
    assert (document["name"], document["tag"], document["key"]) == ("EPI_cord", "v0.2", "model_EPI_cord")


def test_text_tells_conditions_files_and_code(mreg, tiny_package):
    result = mreg("sct", tiny_package.archive, "--registry", "github:ivadomed")
    assert result.exit_code == 0
    assert f"{NAME}@{TAG}: " in result.stdout
    assert "\nIMAGE_seg.nii.gz\n" in result.stdout
    start, end = result.stdout.index("MODELS = {"), result.stdout.index("\n\ntesting/cli/")
    assert set(tables(result.stdout[start:end])) == {"MODELS", "TASKS"}
    assert "sct_deepseg sc_t2 -install -custom-url https://github.com/ivadomed/" in result.stdout


def test_a_folder_is_no_archive(mreg, tmp_path):
    result = mreg("sct", tmp_path)
    assert result.exit_code == 1
    assert "a folder; SCT installs archives" in result.stderr
    assert result.stdout == ""


# --- the table, and the source code that is written -------------------------------------------------------------------


def test_every_error_of_an_archive_is_a_condition_or_is_said_not_to_be_scts():
    prefixes = ("ARCHIVE", "CHANNEL", "CKPT", "JSON001", "JSON003", "LABEL", "MANIFEST", "MODEL", "NET", "ORIENT001",
                "ORIENT003", "PRIVACY", "RELEASE", "SCHEMA", "TRAINER")  # fmt: skip
    errors = {k.code for k in checks.every_kind() if k.level == "error" and k.code.startswith(prefixes)}
    judged = {code for condition in CONDITIONS for code in condition.codes}
    assert errors - judged - set(NOT_SCTS) == set()
    assert judged & set(NOT_SCTS) == set()
    assert judged | set(NOT_SCTS) <= {kind.code for kind in checks.every_kind()}


@pytest.mark.parametrize(
    ("name", "task", "contrasts", "group"),
    [
        ("model_seg_sc_t2", "sc_t2", ["t2"], "spinal_cord"),
        ("model_seg_lesion_ms_mp2rage", "lesion_ms_mp2rage", ["UNIT1"], "pathology"),
        ("model_seg_gm-wm_mouse_t1", "gm_wm_mouse_t1", ["t1"], "gray_matter"),
        ("model_seg_sc_agnostic", "sc", ["any"], "spinal_cord"),
        ("model_seg_csf_epi", "csf_epi", ["bold"], "spinal_cord"),
        ("model_seg_sci", "sc_sci", ["any"], "pathology"),
        ("model-seg-dcm", "sc_dcm", ["any"], "pathology"),
        ("canproco", "canproco", ["any"], "spinal_cord"),
    ],
)
def test_a_name_gives_task_contrasts_and_group(name, task, contrasts, group):
    assert (sct_stanza.task_of(name), sct_stanza.contrasts(name), sct_stanza.group(name)) == (task, contrasts, group)


texts = st.text(max_size=40) | st.text(" '\"\\n\\\\abü\x7f", max_size=300)
values = st.recursive(
    texts | st.booleans() | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
@settings(deadline=None, max_examples=60)
def test_whatever_is_written_is_read_back_by_python(value):
    source = sct_stanza.literal(value)
    assert ast.literal_eval(source) == value
    assert all(line.isprintable() for line in source.split("\n"))
