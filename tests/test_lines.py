"""Lines of keys: found in JSON and TOML as people and programs write them, and never a crash or a hang."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import lines

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"{}[],:\\\n é', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"{}\\,: ', max_size=4), inner, max_size=3),
    max_leaves=10,
)


def paths(value, place=()):
    """Return every key and place in a list of a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in inside for found in [(*place, key), *paths(inner, (*place, key))]]


@given(st.dictionaries(st.text("abc", max_size=3), values, max_size=4))
@settings(deadline=None, max_examples=150)
def test_every_key_has_the_line_where_it_stands(document):
    text = json.dumps(document, indent=1, ensure_ascii=False)
    found = lines.of_keys(text)
    wanted = paths(document)
    assert set(found) == {place for place in wanted if len(place) <= lines.DEEPEST}
    for place, number in found.items():
        row = text.splitlines()[number - 1].strip() if "\r" not in text else ""
        if isinstance(place[-1], str):
            assert row.startswith(json.dumps(place[-1], ensure_ascii=False) + ":")


@given(st.text('{}[]":,\\ \n0ax', max_size=60))
@settings(deadline=None, max_examples=150)
def test_what_is_no_json_is_followed_as_far_as_it_goes(text):
    assert all(1 <= number <= text.count("\n") + 1 for number in lines.of_keys(text).values())


def test_nesting_without_end_is_no_burden():
    assert len(lines.of_keys("[" * 200_000)) <= lines.DEEPEST


@pytest.mark.parametrize(
    ("keys", "line"), [(("labels", "sc"), 3), (("labels", "gm"), 2), (("nothing",), 1), (("list", 1), 6), ((), 1)]
)
def test_a_missing_key_has_the_line_of_what_should_hold_it(keys, line):
    text = '{\n "labels": {\n  "sc": 1\n },\n "list": [1,\n  2]\n}'
    assert lines.of_key(text, *keys) == line
    assert lines.of_key("", *keys) is None


def test_keys_of_toml_are_found_in_their_table():
    text = '# name = "x"\n[model]\nname = "y"\n[train]\n"name" = 1\n'
    assert [lines.of_toml(text, "model", "name"), lines.of_toml(text, "train", "name")] == [3, 5]
    assert [lines.of_toml(text, "model", "other"), lines.of_toml(text, "paths", "data")] == [2, None]
