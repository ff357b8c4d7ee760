"""The schemas of dataset.json and plans.json, and the findings that they give."""

import copy
import json
from pathlib import Path

import pytest
from fixtures_run import FINGERPRINT
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from registry import schema_page, schemas
from registry.schemas import validate

DATASET = {
    "channel_names": {"0": "T2w"},
    "labels": {"background": 0, "sc": [1, 2], "lesion": 2},
    "regions_class_order": [1, 2],
    "numTraining": 12,
    "file_ending": ".nii.gz",
    "image_orientation": "RPI",
}
PLANS = json.loads((Path(__file__).parent / "data" / "plans" / "sc_t2w.json").read_text())
CLASSIFICATION = {
    "name": "Spine",
    "modality": {"0": "MRI", "1": "CT"},
    "classification_labels": [
        {"name": "Lesion", "ordinal": False, "values": {"0": "absent", "1": "present"}},
        {"name": "Level", "ordinal": True, "values": {"0": "C", "1": "T", "2": "L"}},
    ],
    "labels": {"0": "background", "1": "cord"},
    "numTraining": 1,
    "training": [{"image": "./imagesTr/a_0001.nii.gz", "label": "./labelsTr/a_0001.nii.gz", "Lesion": 1, "Level": 2}],
}
IMAGE = {
    "name": "a.nii.gz",
    "image_path": "$nnssl_raw/Dataset530_Spine/a.nii.gz",
    "modality": "T2w",
    "associated_masks": {"anonymization_mask": None, "anatomy_mask": None},
}
PRETRAIN = {
    "collection_index": 530,
    "collection_name": "Dataset530_Spine",
    "datasets": {
        "one": {
            "dataset_index": "one",
            "subjects": {"s": {"subject_id": "s", "sessions": {"1": {"session_id": 1, "images": [IMAGE]}}}},
        }
    },
}
RELEASE = {
    "tag": "r20260131",
    "date": "2026-01-31",
    "url": "",
    "yanked": None,
    "assets": [{"name": "a.zip", "size": 1, "sha256": "0" * 64, "url": "https://example.org/a.zip"}],
    "models": [
        {
            "asset": "a.zip",
            "variant": "",
            "configuration": "2d",
            "orientation": "RPI",
            "channels": {"0": "T2w"},
            "labels": {"background": 0, "sc": [1, 2]},
            "metrics": {"dataset": "d", "split": "test", "cases": 1, "mean": {"sc": {"dice": 0.9, "hd95_mm": None}}},
        }
    ],
}
REPO = {"name": "model_seg_sc_t2", "status": "valid", "fields": {"anatomy": ["sc"]}, "description": "", "url": "",
        "archived": False, "releases": [RELEASE]}  # fmt: skip
INDEX = {"schema_version": 1, "generated": "2026-01-31T12:00:00Z", "registry": "github:ivadomed", "repos": [REPO]}
DOCUMENTS = {
    "dataset": DATASET,
    "classification_dataset": CLASSIFICATION,
    "pretrain_data": PRETRAIN,
    "dataset_fingerprint": FINGERPRINT,
    "plans": PLANS,
    "index": INDEX,
}
ORIENTATIONS = [
    a + b + c
    for a in "RLAPIS"
    for b in "RLAPIS"
    for c in "RLAPIS"
    if all(len({a, b, c} & set(pair)) == 1 for pair in ("RL", "AP", "IS"))
]


def codes(findings):
    return [finding.code for finding in findings]


@pytest.mark.parametrize("name", schemas.names())
def test_every_schema_is_one_and_explains_itself(name):
    schema = schemas.load(name)
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    assert schema["description"]
    silent = [path for path, about in parts(schema) if not about.keys() & {"title", "description", "$ref"}]
    assert silent == []


def parts(schema, path=""):
    """Yield the path and schema of every property, at any depth."""
    if isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from parts(item, f"{path}/{number}")
    elif isinstance(schema, dict):
        for key, item in schema.items():
            if key == "properties" and path.rpartition("/")[2] not in ("then", "else") and "/then/" not in path:
                yield from ((f"{path}/{name}", about) for name, about in item.items())
            yield from parts(item, f"{path}/{key}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_whole_document_has_no_finding_and_none_of_its_required_keys_can_be_missing(name):
    assert validate(name, DOCUMENTS[name], "") == []
    for key in schemas.load(name)["required"]:
        less = {k: v for k, v in DOCUMENTS[name].items() if k != key}
        assert "SCHEMA001" in codes(validate(name, less, "")), key


def at(document, path, value):
    """Return the document with another value at a path a.0.b; None takes the key away."""
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return changed


SESSION = "datasets.one.subjects.s.sessions.1"


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("classification_dataset", "modality", {"1": "MRI"}, "modality: key '0' is missing"),
        ("classification_dataset", "modality", {"0": "a", "2": "b"}, "numbers|names of the channels"),
        ("classification_dataset", "tensorImageSize", "2D", 'tensorImageSize: "2D", expected "3D"'),
        ("classification_dataset", "classification_labels", [], "a length of at least 1"),
        ("classification_dataset", "classification_labels.0.name", "image", "other than image and label"),
        ("classification_dataset", "classification_labels.0.ordinal", 0, "expected true or false"),
        ("classification_dataset", "classification_labels.0.values", {"0": "a"}, "key '1' is missing"),
        ("classification_dataset", "classification_labels.1.values", {"0": "a", "1": "b", "3": "c"}, "values"),
        ("classification_dataset", "training.0.Lesion", True, "training[0].Lesion: true, expected an integer"),
        ("classification_dataset", "training.0.Lesion", "1", 'training[0].Lesion: "1", expected an integer'),
        ("classification_dataset", "training.0.Lesion", -1, "at least 0"),
        ("classification_dataset", "training.0.image", "/data/imagesTr/a.nii.gz", "path in imagesTr"),
        ("classification_dataset", "training.0.label", None, "training[0]: key 'label' is missing"),
        ("classification_dataset", "labels", None, "no mask, as there is no key labels"),
        ("classification_dataset", "labels", {"1": "cord"}, "labels: key '0' is missing"),
        ("classification_dataset", "training", [], "a length of at least 1"),
        ("pretrain_data", "collection_name", "Spine", "folder of the collection such as"),
        ("pretrain_data", "datasets", {}, "a length of at least 1"),
        ("pretrain_data", f"{SESSION}.images", {}, "expected a list"),
        ("pretrain_data", f"{SESSION}.images.0.colour", "red", "unknown key 'colour'"),
        ("pretrain_data", f"{SESSION}.images.0.name", "b/a.nii.gz", "name of the file"),
        ("pretrain_data", f"{SESSION}.images.0.image_path", "a.nii.gz", "path that begins with $nnssl_raw/"),
        ("pretrain_data", f"{SESSION}.images.0.associated_masks", {"anatomy_mask": None}, "'anonymization_mask'"),
        ("pretrain_data", f"{SESSION}.images.0.associated_masks.anatomy_mask", 1, "expected text or null"),
        ("dataset_fingerprint", "spacings.1", [1, 1], "a length of at least 3"),
        ("dataset_fingerprint", "spacings.0.0", 0, "more than 0"),
        ("dataset_fingerprint", "shapes_after_crop.0.0", 1.5, "expected an integer"),
        ("dataset_fingerprint", "foreground_intensity_properties_per_channel.0.std", None, "key 'std' is missing"),
        ("dataset_fingerprint", "foreground_intensity_properties_per_channel", {"T2w": {}}, "channel numbers, as text"),
        ("dataset_fingerprint", "median_relative_size_after_cropping", 1.5, "at most 1"),
        ("index", "schema_version", 2, "expected 1"),
        ("index", "generated", "yesterday", "time in UTC such as"),
        ("index", "repos.0.status", "fine", 'one of "valid", "warn", "invalid"'),
        ("index", "repos.0.releases.0.yanked", "", "a length of at least 1"),
        ("index", "repos.0.releases.0.assets.0.sha256", "0" * 63, "SHA-256 of the bytes"),
        ("index", "repos.0.releases.0.assets.0.size", -1, "at least 0"),
        ("index", "repos.0.releases.0.models.0.colour", 1, "unknown key 'colour'"),
        ("index", "repos.0.releases.0.models.0.labels.sc", "1", "expected an integer or a list"),
    ],
)  # fmt: skip
def test_a_bad_document_is_named_with_its_place(name, path, value, message):
    findings = validate(name, at(DOCUMENTS[name], path, value), "")
    assert findings
    assert any(part in finding.message for finding in findings for part in message.split("|")), findings


def test_real_collections_and_classification_datasets_have_no_finding(test_data):
    paths = {
        "classification_dataset": sorted(test_data.glob("auc23/raw/*/*/dataset.json")),
        "pretrain_data": sorted(test_data.glob("nnssl_raw/*/pretrain_data.json")),
    }
    for name, found in paths.items():
        assert found
        for path in found:
            assert validate(name, json.loads(path.read_text()), path.name) == []


def test_a_classification_dataset_without_masks_needs_neither_labels_nor_paths_of_masks():
    assert (
        validate("classification_dataset", at(at(CLASSIFICATION, "labels", None), "training.0.label", None), "") == []
    )


def test_the_page_of_schemas_has_a_row_for_each_key_at_the_top():
    page = schema_page.page()
    for name in schemas.names():
        for key in schemas.load(name)["properties"]:
            assert f"\n| `{key}` | " in page, (name, key)
    assert "\n| `models[].reference.map.runs` | text | yes | " in page
    assert "\n| `train.epochs` | an integer or null |  | epochs (nnU-Net: 1000) |" in page


def test_a_whole_dataset_json_has_no_finding():
    assert validate("dataset", DATASET, "dataset.json") == []


def test_real_datasets_have_no_finding(test_data):
    paths = sorted(test_data.glob("nnUNet_raw/*/dataset.json"))
    assert paths
    for path in paths:
        assert validate("dataset", json.loads(path.read_text()), path.name) == []


@pytest.mark.parametrize("name", ["sc_t2w", "resenc_m"])
def test_plans_as_nnunet_writes_them_have_no_finding(name):
    plans = json.loads((Path(__file__).parent / "data" / "plans" / f"{name}.json").read_text())
    assert validate("plans", plans, "plans.json") == []


def test_all_48_orientations_fit_and_no_other_three_letters_do():
    assert len(ORIENTATIONS) == 48
    fitting = [
        a + b + c
        for a in "RLAPISX"
        for b in "RLAPISX"
        for c in "RLAPISX"
        if not validate("dataset", DATASET | {"image_orientation": a + b + c}, "")
    ]
    assert sorted(fitting) == sorted(ORIENTATIONS)


@pytest.mark.parametrize("code", ["rpi", "RPI\n", "RPI ", "RPIS", "RP", "", "RPIL", ["R", "P", "I"], None])
def test_sct_would_read_these_orientations_wrongly(code):
    findings = validate("dataset", DATASET | {"image_orientation": code}, "dataset.json")
    assert len(findings) == 1
    assert findings[0].message.startswith(f"image_orientation: {json.dumps(code)}, expected ")
    meant = isinstance(code, str) and code.strip().upper() == "RPI"
    assert (findings[0].hint == "did you mean RPI?") == meant


@pytest.mark.parametrize("key", ["labels", "channel_names", "file_ending", "image_orientation"])
def test_a_missing_key_is_named_with_the_way_out(key):
    document = {name: value for name, value in DATASET.items() if name != key}
    (finding,) = validate("dataset", document, "data/dataset.json")
    assert (finding.code, finding.level, finding.path) == ("SCHEMA001", "error", "data/dataset.json")
    assert f"key '{key}' is missing" in finding.message
    assert finding.hint


def test_the_old_key_orientation_is_a_warning_by_name():
    (finding,) = validate("dataset", DATASET | {"orientation": "RPI"}, "dataset.json")
    assert (finding.level, finding.hint) == ("warning", "rename the key to image_orientation")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"labels": []}, "SCHEMA002", "labels: [], expected an object"),
        ({"labels": {}}, "SCHEMA003", "labels: {}, expected a length of at least 1"),
        ({"channel_names": {"a": "T2w"}}, "SCHEMA003", 'channel_names: key "a", expected channel numbers, as text'),
        ({"channel_names": {"0": 1}}, "SCHEMA002", "channel_names.0: 1, expected text"),
        ({"regions_class_order": [1, "2"]}, "SCHEMA002", 'regions_class_order[1]: "2", expected an integer'),
        ({"numTraining": -1}, "SCHEMA003", "numTraining: -1, expected at least 0"),
        ({"numTraining": "12"}, "SCHEMA002", 'numTraining: "12", expected an integer'),
        (
            {"file_ending": "nii"},
            "SCHEMA003",
            'file_ending: "nii", expected ending of image and label files such as .nii.gz',
        ),
        (
            {"dataset": {"c1": {"images": ["a.nii.gz"]}}},
            "SCHEMA001",
            "dataset.c1: key 'label' is missing (path of the label image)",
        ),
    ],
)
def test_a_wrong_value_is_named_with_key_value_and_expectation(change, code, message):
    (finding,) = validate("dataset", DATASET | change, "dataset.json")
    assert (finding.code, finding.message) == (code, message)


def test_all_problems_come_in_one_go_sorted_by_key():
    document = {"labels": 1, "channel_names": {"0": ""}, "regions_class_order": [None] * 11, "image_orientation": "LAS"}
    findings = validate("dataset", document, "dataset.json")
    assert codes(findings) == ["SCHEMA001", "SCHEMA003", "SCHEMA002", *["SCHEMA002"] * 11]
    assert findings[-1].message.startswith("regions_class_order[10]:")


def test_a_long_value_is_cut():
    (finding,) = validate("dataset", DATASET | {"labels": "x" * 1000}, "dataset.json")
    assert len(finding.message) < 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plans: plans.pop("configurations"), "key 'configurations' is missing"),
        (lambda plans: plans.update(configurations={}), "configurations: {}, expected a length of at least 1"),
        (lambda plans: plans.update(transpose_forward=[0, 0, 1]), "[0, 0, 1], expected no item twice"),
        (lambda plans: plans.update(transpose_forward=[0, 1, 3]), "transpose_forward[2]: 3, expected one of 0, 1, 2"),
        (lambda plans: plans["configurations"]["2d"].update(patch_size=[64]), "[64], expected a length of at least 2"),
        (lambda plans: plans["configurations"]["2d"].update(spacing=[0, 1]), "spacing[0]: 0, expected more than 0"),
        (lambda plans: plans["configurations"]["2d"].pop("spacing"), "configurations.2d: key 'spacing' is missing"),
        (lambda plans: plans["configurations"]["2d"].pop("architecture"), "a configuration with an architecture"),
    ],
)
def test_broken_plans_are_named(change, message):
    plans = copy.deepcopy(PLANS)
    change(plans)
    (finding,) = validate("plans", plans, "plans.json")
    assert message in finding.message


def test_plans_may_inherit_and_may_be_as_old_as_flat_keys():
    plans = copy.deepcopy(PLANS)
    del plans["configurations"]["2d"]["architecture"]
    plans["configurations"]["2d"]["UNet_class_name"] = "PlainConvUNet"
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["something_new"] = 1
    assert validate("plans", plans, "plans.json") == []


def test_an_unknown_key_is_named_where_a_schema_forbids_it(monkeypatch, tmp_path):
    schema = {"type": "object", "properties": {"tag": {}}, "additionalProperties": False}
    (tmp_path / "strict.schema.json").write_text(json.dumps(schema))
    monkeypatch.setattr(schemas, "folder", lambda: tmp_path)
    findings = validate("strict", {"tag": 1, "tga": 1, "x": 2}, "f.json")
    assert codes(findings) == ["SCHEMA004", "SCHEMA004"]
    assert findings[0].message == "unknown key 'tga', expected one of tag"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(schemas.names()), st.data())
@settings(deadline=None, max_examples=200)
def test_any_json_is_judged_without_a_traceback(name, data):
    keys = st.sampled_from(sorted(schemas.load(name)["properties"]))
    document = data.draw(st.dictionaries(keys, json_values) | json_values)
    for finding in validate(name, document, "f.json"):
        assert finding.code.startswith("SCHEMA00")
        assert finding.message
