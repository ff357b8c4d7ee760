"""Notes of a release: what programs write there can be read again, and what people write there stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import IntegrityError
from registry.notes import Block, block_of, format_block, parse_block, write_block, write_generated
from registry.stores import Release

WORDS = st.text(max_size=30)
BLOCKS = st.builds(
    Block,
    yanked=WORDS,
    mirrors=st.lists(WORDS, max_size=3).map(tuple),
    archive=WORDS,
    orientation=st.sampled_from(["", "RPI", "LPI"]),
    labels=st.lists(WORDS, max_size=3).map(tuple),
    other=st.dictionaries(st.sampled_from(["later", "x-y"]), st.integers() | WORDS, max_size=2),
)
# What people and GitHub's editor can make of notes, comments and Windows line ends among it.
PROSE = st.lists(
    st.sampled_from(
        ["", "Text", "<!-- a comment -->", "<!-- mregister\n-->", "```json\n{}\n```", "-->", "a\r\nb", "ünï"]
    ),
    max_size=5,
).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(PROSE, BLOCKS)
def test_a_written_block_is_read_again(prose, block):
    assert parse_block(write_block(prose, block)) == block


@settings(max_examples=200, deadline=None)
@given(PROSE, BLOCKS, BLOCKS)
def test_writing_again_replaces_the_block_and_nothing_else(prose, first, second):
    once, twice = write_block(prose, first), write_block(write_block(prose, first), second)
    assert parse_block(twice) == second
    assert twice.count("<!-- mreg\n") == 1
    assert twice.replace(format_block(second), "") == once.replace(format_block(first), "")
    assert write_block(once, first) == once


@settings(max_examples=100, deadline=None)
@given(BLOCKS)
def test_a_block_survives_the_line_ends_of_a_web_form(block):
    assert parse_block(write_block("Hello", block).replace("\n", "\r\n")) == block


@settings(max_examples=100, deadline=None)
@given(PROSE, WORDS, WORDS, BLOCKS)
def test_the_generated_part_is_replaced_and_the_rest_stays(prose, first, second, block):
    notes = write_block(write_generated(prose, f"generated {first} a"), block)
    again = write_generated(notes, f"generated {second} b")
    assert write_generated(notes, f"generated {first} a") == notes
    assert again.startswith(prose.rstrip())
    assert f"generated {second} b" in again
    assert again.count("<!-- mreg:release -->") == 1
    assert parse_block(again) == block


def test_no_value_ends_the_comment():
    block = Block(yanked="--> <script>alert(1)</script>")
    text = format_block(block)
    assert text.count("-->") == 1
    assert text.endswith("-->")
    assert "<script" not in text


def test_notes_without_a_block_are_an_empty_one():
    assert parse_block("# Notes by hand") == Block()


@pytest.mark.parametrize("content", ["{", "[1]", '{"yanked": 3}', '{"mirrors": "x"}', '{"labels": [1]}', "[" * 100_000])
def test_a_broken_block_is_one_error_and_does_not_end_a_list(content, capsys):
    notes = f"<!-- mreg\n{content}\n-->"
    with pytest.raises(IntegrityError, match="cannot be read"):
        parse_block(notes)
    release = Release(id="1", repo="model_seg_sc_t2", tag="r20260131", title="", notes=notes, draft=False)
    assert block_of(release) == Block()
    assert "model_seg_sc_t2@r20260131" in capsys.readouterr().err
