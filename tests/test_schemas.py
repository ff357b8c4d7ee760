"""The schemas of dataset.json and plans.json, and the findings that they give."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from registry import schemas
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
    assert all("title" in about or "$ref" in about for about in schema["properties"].values())


def test_a_whole_dataset_json_has_no_finding():
    assert validate("dataset", DATASET, "dataset.json") == []


def test_real_datasets_have_no_finding(test_data):
    paths = sorted(test_data.glob("nnUNet_raw/*/dataset.json"))
    assert paths
    for path in paths:
        assert validate("dataset", json.loads(path.read_text()), path.name) == []


def test_plans_as_nnunet_writes_them_have_no_finding():
    assert validate("plans", PLANS, "plans.json") == []


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


@given(st.dictionaries(st.sampled_from(sorted(schemas.load("dataset")["properties"])), json_values) | json_values)
@settings(deadline=None, max_examples=150)
def test_any_json_is_judged_without_a_traceback(document):
    for finding in validate("dataset", document, "dataset.json"):
        assert finding.code.startswith("SCHEMA00")
        assert finding.message
