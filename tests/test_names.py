"""The grammar of names and tags, against the vectors that the convention was settled with."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.errors import MregError, NotFoundError
from registry.names import EXPLANATIONS, check_tag, explain, parse, require_strict
from registry.spelling import distance
from registry.vocabulary import load_vocabulary

VECTORS = json.loads((Path(__file__).parent / "data" / "naming" / "names.json").read_text())
VOCABULARY = load_vocabulary()
WORDS = [entry.spelling for entry in VOCABULARY.words.values()]

# Names as people write them: known words, near misses and noise, joined by any separator.
pieces = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS).map(str.upper), st.text("abt123", max_size=6))
written = st.lists(st.tuples(st.sampled_from(["_", "-", "__", ".", " "]), pieces), max_size=8).map(
    lambda parts: "model" + "".join(separator + piece for separator, piece in parts)
)
in_any_order = st.permutations(list(VOCABULARY.fields.values())).flatmap(
    lambda fields: st.tuples(*(st.sampled_from(["", *field.terms]) for field in fields))
)
anything = st.one_of(st.text(), written, in_any_order.map(lambda terms: "_".join(["model", *filter(None, terms)])))


@pytest.mark.parametrize("vector", VECTORS["names"], ids=lambda vector: vector["name"])
def test_a_name_is_read_as_its_vector_says(vector):
    result = parse(vector["name"])._asdict()
    assert result == {key: value for key, value in vector.items() if key != "origin"}


@pytest.mark.parametrize("vector", VECTORS["tags"], ids=lambda vector: vector["tag"])
def test_a_tag_is_read_as_its_vector_says(vector):
    assert check_tag(vector["tag"]) == vector["code"]


@pytest.mark.parametrize(
    "tag",
    ["", "r", "r20240915\n", "r\uff12\uff10\uff12\uff140915", "r+2024915", "r2024 915", "rr2024915", " r20240915"],
)
def test_only_r_and_eight_ascii_digits_are_a_tag(tag):
    assert check_tag(tag) == "T_FORM"


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("r20091231", "T_DATE"),
        ("r20100101", None),
        ("r20991231", None),
        ("r21000101", "T_DATE"),
        ("r20240001", "T_DATE"),
    ],
)
def test_tags_are_of_this_century(tag, code):
    assert check_tag(tag) == code


@given(st.dates())
@settings(deadline=None, max_examples=50)
def test_every_date_is_a_tag_from_2010_to_2099_and_none_else(date):
    tag = "r" + date.isoformat().replace("-", "")
    assert check_tag(tag) == (None if 2010 <= date.year <= 2099 else "T_DATE")


@given(anything)
@example("")
@example("model_")
@example("model_İ")
@example("model_\ud800")
@settings(deadline=None, max_examples=400)
def test_any_text_is_explained_and_never_a_traceback(text):
    result = parse(text)
    codes = {problem.code for problem in explain(text)}
    assert codes == {*result.errors, *result.warnings}
    assert codes <= EXPLANATIONS.keys()
    assert result.status == ("invalid" if result.errors else "warn" if result.warnings else "valid")
    assert (result.canonical is None) == (result.status == "invalid") == (result.fields is None)


@given(anything)
@settings(deadline=None, max_examples=400)
def test_the_canonical_name_is_a_fixed_point(text):
    result = parse(text)
    if result.canonical is None or len(result.canonical) > 100:
        return
    again = parse(result.canonical)
    assert again.canonical == result.canonical
    assert again.fields == result.fields
    assert set(again.warnings) <= {"W_NO_TASK"}


@given(anything)
@settings(deadline=None, max_examples=400)
def test_short_and_full_name_the_same_model(text):
    result = parse(text)
    for form in (result.short, result.full):
        if form is not None and len(form) <= 100:
            assert parse(form).full == result.full
            assert parse(form).short == result.short
            assert "W_ORDER" not in parse(form).warnings


@given(anything)
@settings(deadline=None, max_examples=400)
def test_a_suggestion_is_a_usable_name(text):
    result = parse(text)
    if result.status != "invalid":
        assert (result.suggestion, result.dropped) == (None, [])
    if result.suggestion is not None:
        suggested = parse(result.suggestion)
        assert suggested.status in {"valid", "warn"}
        assert suggested.canonical == result.suggestion
    assert all(result.dropped)


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("model_" + "a" * 95, ["E_TOO_LONG"]),
        ("model_" + "a" * 94, ["E_UNKNOWN_TOKEN"]),
        ("é" * 101, ["E_TOO_LONG"]),
        ("model-seg_é", ["E_CHARS"]),
        ("model_seg_sc_t2\n", ["E_CHARS"]),
        ("Model_seg_sc", ["E_PREFIX"]),
        ("Model-seg_sc", ["E_PREFIX"]),
        ("", ["E_PREFIX"]),
        ("seg__sc", ["E_PREFIX"]),
        ("model_seg_-sc", ["E_EMPTY_SEGMENT"]),
        ("model_seg_sc-", ["E_EMPTY_SEGMENT"]),
        ("model_seg_sc--gm", ["E_EMPTY_SEGMENT"]),
        ("model_unet2d_unet-3d", ["E_DUPLICATE_FIELD"]),
        ("model_seg-label_sc", ["E_LIST_NOT_ALLOWED"]),
        ("model_seg-label-foo_sc", ["E_LIST_NOT_ALLOWED", "E_UNKNOWN_TOKEN"]),
        ("model_t2w-t2_seg", ["E_DUPLICATE_VALUE"]),
        ("model_seg-seg_sc", ["E_DUPLICATE_VALUE"]),
        ("model_seg_sc-mouse_gm", ["E_MIXED_SEGMENT"]),
        ("model_seg_sc-foo_gm", ["E_DUPLICATE_FIELD", "E_UNKNOWN_TOKEN"]),
        ("model_seg_foo_bar", ["E_UNKNOWN_TOKEN"]),
        ("model_seg_softseg", ["E_UNKNOWN_TOKEN"]),
        ("model_seg_sc-softseg", ["E_UNKNOWN_TOKEN"]),
        ("model_unet2d_softseg", ["E_UNKNOWN_TOKEN"]),
    ],
)
def test_each_error_has_its_code(name, errors):
    result = parse(name)
    assert result.errors == errors
    assert result.warnings == []


def test_qualifiers_may_follow_each_other_after_their_architecture():
    result = parse("model_seg_sc_unet2d-multichannel-SOFTSEG")
    assert result.warnings == ["W_CASE", "W_QUALIFIER"]
    assert result.canonical == "model_seg_sc_unet2d"


@pytest.mark.parametrize(
    ("name", "suggestion", "dropped"),
    [
        ("Model-SEG-sc", "model_seg_sc", []),
        ("model-spinal-rootlets", "model_rootlets", []),
        ("model-gm-contrast-region-agnostic", "model_gm_agnostic", []),
        ("seg-sc-ms-lesion-longitudinal", "model_seg_sc-lesion_ms", ["longitudinal"]),
        ("mice_uqueensland_gm", "model_gm_mouse", ["uqueensland"]),
        ("lumbar_seg_EPFL", "model_seg", ["lumbar", "EPFL"]),
        ("lumbar-T2star-GMseg", "model_t2star", ["lumbar", "GMseg"]),
        ("model_msseg2_pipeline1", None, ["msseg2", "pipeline1"]),
        ("seg_sc_t2str", "model_seg_sc_t2star", []),
        ("seg_sc_flari", "model_seg_sc_flair", []),  # two letters swapped are one step
        ("seg_sc_untxd", "model_seg_sc", ["untxd"]),  # five letters: two steps are too many
        ("seg_unet4d", "model_seg", ["unet4d"]),  # unet2d and unet3d are equally near
        ("model_model_seg", "model_seg", ["model"]),
    ],
)
def test_a_suggestion_keeps_what_it_can_and_says_what_it_drops(name, suggestion, dropped):
    result = parse(name)
    assert (result.suggestion, result.dropped) == (suggestion, dropped)


def test_no_suggestion_is_longer_than_a_name_may_be():
    assert parse("model_" + "-".join(VOCABULARY.fields["anatomy"].terms)).suggestion is None


def test_default_anatomy_stands_in_for_a_short_name_that_would_be_empty():
    assert parse("model_human").short == "model_sc"


@pytest.mark.parametrize(
    ("left", "right", "steps"),
    [("", "", 0), ("abc", "", 3), ("ab", "ba", 1), ("ca", "abc", 3), ("kitten", "sitting", 3), ("flair", "flari", 1)],
)
def test_distance_counts_swaps_of_neighbours_once(left, right, steps):
    assert distance(left, right) == distance(right, left) == steps


def test_strict_returns_a_valid_name():
    assert require_strict("model_seg_sc_t2").full == "model_seg_sc_human_hc_invivo_t2_unet2d"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("model_seg_monkey_sc", "not in the convention's order", "did you mean model_seg_sc_monkey?"),
        ("model-seg-ms-axial-t2w", "not by -", "did you mean model_seg_ms_t2 (left out: axial)?"),
        ("model_sc_t2", "no task", "mreg name 'model_sc_t2' says more"),
        ("", "starts with model_", "mreg name '' says more"),
    ],
)
def test_strict_refuses_warnings_too_and_names_the_way_out(name, message, hint):
    with pytest.raises(MregError, match=message) as caught:
        require_strict(name)
    assert caught.value.hint == hint


def overlay(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize("case", VECTORS["vocabulary_cases"], ids=lambda case: case["case"])
def test_a_projects_vocabulary_merges_or_is_refused(case, tmp_path):
    fields = {field: {"extended": terms} for field, terms in case["add"].items()}
    path = overlay(tmp_path / "words.json", {"fields": fields, "aliases": case["aliases"]})
    if case.get("refused"):
        with pytest.raises(MregError, match="'MS' is already the pathology term 'ms'"):
            load_vocabulary(path)
    else:
        assert parse(case["name"], load_vocabulary(path)).status == case["status"]
        assert parse(case["name"]).status == "invalid"


def test_a_projects_file_may_bring_terms_aliases_and_qualifiers(tmp_path):
    document = {
        "version": 1,
        "fields": {"anatomy": {"default": "sc", "list": True, "core": ["nerve"], "extended": ["dorsal-horn"]}},
        "qualifiers": {"contrast": ["sagittal"]},
        "aliases": {"nervus": "nerve", "cornu": "dorsal-horn"},
    }
    vocabulary = load_vocabulary(overlay(tmp_path / "words.json", document))
    assert parse("model_seg_dorsal-horn_t2-sagittal", vocabulary).canonical == "model_seg_dorsal-horn_t2"
    assert parse("model_seg_nervus-sc_t2", vocabulary).canonical == "model_seg_nerve-sc_t2"
    assert parse("model_seg_cornu-sc", vocabulary).canonical == "model_seg_dorsal-horn-sc"
    assert "nerve" not in load_vocabulary().words


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "not an object"),
        ("{", "not a vocabulary"),
        ("\udcff", "not a vocabulary"),
        ("[" * 100_000, "not a vocabulary"),
        ('{"aliases": {"x1": "sc", "x1": "gm"}}', "written twice: x1"),
        ({"fields": {"anatomy": {"extended": ["x", "X"]}}}, "'X' is already the anatomy term 'x'"),
        ({"fields": {"anatomy": {"extended": ["softseg"]}}}, "already the architecture qualifier|is already"),
        ({"fields": {"anatomy": {"extended": ["a_b"]}}}, "'a_b' is not letters"),
        ({"fields": {"anatomy": {"extended": ["a--b"]}}}, "'a--b' is not letters"),
        ({"fields": {"anatomy": {"extended": [""]}}}, "'' is not letters"),
        ({"fields": {"anatomy": {"extended": "nerve"}}}, "anatomy.extended is not a list of words"),
        ({"fields": {"anatomy": {"extended": [1]}}}, "anatomy.extended is not a list of words"),
        ({"fields": {"anatomy": []}}, "'anatomy' is not an object"),
        ({"fields": {"anatomy": {"default": "gm"}}}, "anatomy: default is 'gm', the registry's is 'sc'"),
        ({"fields": {"task": {"list": True}}}, "task: list is True"),
        ({"fields": {"organ": {}}}, "unknown field 'organ'"),
        ({"fields": []}, "fields is not an object"),
        ({"qualifiers": {"organ": ["x"]}}, "unknown field 'organ'"),
        ({"qualifiers": {"anatomy": "x"}}, "qualifiers.anatomy is not a list"),
        ({"aliases": {"x": "cord"}}, "points to 'cord', which is not a term"),
        ({"aliases": {"x": 1}}, "alias 'x' points to 1"),
        ({"aliases": {"SC": "gm"}}, "'SC' is already the anatomy term 'sc'"),
        ({"aliases": {"cord": "gm"}}, "alias 'cord' is already there"),
        ({"order": ["task"]}, "order is"),
        ({"version": 2}, "version is 2"),
        ({"terms": []}, "unknown key 'terms'"),
    ],
)
def test_a_broken_vocabulary_is_refused_with_its_path(document, message, tmp_path):
    path = tmp_path / "words.json"
    if isinstance(document, str):
        path.write_bytes(document.encode("utf-8", "surrogateescape"))
    else:
        overlay(path, document)
    with pytest.raises(MregError, match=message) as caught:
        load_vocabulary(path)
    assert str(path) in caught.value.message


def test_all_problems_of_a_vocabulary_are_one_error(tmp_path):
    path = overlay(tmp_path / "words.json", {"fields": {"anatomy": {"core": ["ms", "t2"]}}, "aliases": {"x": "y"}})
    with pytest.raises(MregError, match=r"'ms' is already.*'t2' is already.*'x' points to 'y'"):
        load_vocabulary(path)


def test_a_missing_vocabulary_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        load_vocabulary(tmp_path / "words.json")
