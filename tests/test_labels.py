"""dataset.json's labels, regions and channels, against the verdicts that nnU-Net and SCT were observed to give."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.checks import check
from registry.errors import MregError
from registry.labels import check_labels, output_suffixes, regions

CASES = json.loads((Path(__file__).parent / "data" / "naming" / "labels.json").read_text())
LEVELS = {"error": "error", "warning": "warn", "note": "ok"}


def document(case):
    return {key: case[key] for key in ("labels", "regions_class_order") if key in case}


def verdict(findings):
    return next((word for word in ("error", "warn") if word in {LEVELS[f.level] for f in findings}), "ok")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_labels_are_judged_as_observed(case):
    findings = check_labels(document(case))
    assert verdict(findings) == case["verdict"]
    assert {finding.code for finding in findings} == set(case["codes"])
    assert all(finding.hint and finding.path == "dataset.json" for finding in findings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_mreg_check_judges_them_alike_and_names_their_line(case, tmp_path):
    (tmp_path / "model.toml").write_text('[model]\nname = "model_seg_sc_t2"\n')
    whole = {"channel_names": {"0": "T2w"}, "file_ending": ".nii.gz", "image_orientation": "RPI", **document(case)}
    text = json.dumps(whole, indent=1)
    (tmp_path / "dataset.json").write_text(text)
    found = [finding for finding in check(tmp_path).findings if finding.code.startswith("LABEL")]
    assert {finding.code for finding in found} == set(case["codes"])
    assert verdict(found) == case["verdict"]
    first = text.splitlines().index(' "labels": {') + 1
    assert all(finding.line is not None and finding.line >= first for finding in found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_suffixes_are_what_sct_writes(case):
    assert output_suffixes(document(case)) == case["sct_writes"]


def test_every_label_set_that_nnunet_refuses_is_an_error():
    refused = [case for case in CASES if case["nnunet"] == "refuses it"]
    assert refused
    assert {verdict(check_labels(document(case))) for case in refused} == {"error"}


@pytest.mark.parametrize(
    ("labels", "order", "code"),
    [
        (None, None, "LABEL001"),
        ([], None, "LABEL001"),
        ({"background": 0, "sc": None}, None, "LABEL001"),
        ({"background": 0, "sc": True}, None, "LABEL001"),
        ({"background": 0, "sc": 1.5}, None, "LABEL001"),
        ({"background": 0, "sc": []}, None, "LABEL001"),
        ({"background": 0, "sc": [[1]]}, None, "LABEL001"),
        ({"background": 0, "sc": -1}, None, "LABEL001"),
        ({}, None, "LABEL009"),
        ({"background": 0, "": 1}, None, "LABEL010"),
        ({"background": 0, "a\n": 1}, None, "LABEL010"),
        ({"background": 0, "a": 1, "b": [1]}, None, "LABEL005"),
        ({"background": 0, "a": 0}, None, "LABEL005"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, [1, 2], "LABEL005"),
        ({"background": 0, "a": [0, 1]}, [1], "LABEL017"),
        ({"background": 0, "GM": 1, "gm": 2}, None, "LABEL018"),
        ({"background": "0", "sc": [1, 2], "lesion": 2}, [1, 2], "LABEL013"),
        ({"background": 0, "sc": [1, 2], "lesion": 2}, ["1", "2"], "LABEL007"),
        ({"background": 0, "sc": [1, 2], "lesion": 2}, [2, 2], "LABEL008"),
        ({"background": 0, "lesion": 2, "sc": [1, 2]}, [2, 1], "LABEL008"),  # the cord is painted over the lesion
    ],
)
def test_further_mistakes_have_their_code(labels, order, code):
    assert code in {finding.code for finding in check_labels({"labels": labels, "regions_class_order": order})}


def test_text_beside_regions_is_an_error_because_nnunet_counts_a_region_too_many():
    found = check_labels({"labels": {"background": "0", "sc": [1, 2], "l": 2}, "regions_class_order": [1, 2]})
    assert [(f.code, f.level) for f in found] == [("LABEL013", "error")]


def test_nested_regions_are_accepted():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    assert check_labels({"labels": labels, "regions_class_order": [1, 2, 3]}) == []


@pytest.mark.parametrize(
    ("channels", "codes"),
    [
        ({"0": "T2w"}, []),
        ({"0": "T1w", "1": "T2w"}, []),
        ({"1": "T2w", "0": "T1w"}, []),
        ({"1": "T2w"}, ["CHANNEL001"]),
        ({"0": "T2w", "2": "T1w"}, ["CHANNEL001"]),
        ({"00": "T2w"}, ["CHANNEL001"]),
        ({}, ["CHANNEL001"]),
        ([], ["CHANNEL001"]),
        ({"0": "CT"}, ["CHANNEL002"]),
        ({"0": "noNorm"}, ["CHANNEL002"]),
        ({"0": 1}, []),
    ],
)
def test_channels_run_from_0_and_their_names_choose_the_normalisation(channels, codes):
    found = check_labels({"labels": {"background": 0, "sc": 1}, "channel_names": channels})
    assert [finding.code for finding in found] == codes


def test_regions_are_the_values_of_each_predicted_label():
    labels = {"background": 0, "sc": [1, 2], "lesion": "2", "ignore": 3}
    assert regions({"labels": labels}) == {"sc": (1, 2), "lesion": (2,)}


def test_regions_refuse_a_value_that_is_no_number():
    with pytest.raises(MregError, match="sc = 'one'"):
        regions({"labels": {"background": 0, "sc": "one"}})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.floats() | st.text("012ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(["background", "ignore", "sc", "canal_seg", "a/b", "0", "lvl1"]) | st.text(max_size=3)


@given(st.dictionaries(names, values, max_size=4) | values, values, st.dictionaries(names, values, max_size=3) | values)
@settings(deadline=None, max_examples=300)
def test_any_json_is_judged_without_a_traceback(labels, order, channels):
    check_labels({"labels": labels, "regions_class_order": order, "channel_names": channels})
