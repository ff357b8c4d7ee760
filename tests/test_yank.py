"""mreg yank: a release that should not be used says so wherever people look."""

import json

import pytest
from fixtures_release import TAG, publish
from fixtures_stores import NAME
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import notes
from registry.notes import parse_block, write_block, write_warning

REASON = "left & right are swapped <b>"


def newest(store):
    return store.releases(NAME)[0]


@pytest.fixture
def two(released, tiny_package, tmp_path):
    """A registry of each kind with two releases, the newer one with notes by hand."""
    folder = tmp_path / "r20260202"
    folder.mkdir()
    name = tiny_package.archive.name.replace(TAG, "r20260202")
    (folder / name).write_bytes(tiny_package.archive.read_bytes())
    manifest = folder / tiny_package.manifest.name
    manifest.write_text(tiny_package.manifest.read_text().replace(TAG, "r20260202"))
    publish(released, "r20260202", folder / name, manifest, notes="By hand\n\n<!-- a comment -->")
    return released


def test_a_yanked_release_is_passed_over_and_says_why(two, mreg):
    where = ("--registry", two.location)
    before = newest(two)
    done = mreg("yank", f"{NAME}@r20260202", "--reason", REASON, *where)
    assert done.exit_code == 0
    assert done.stdout.strip() == before.url
    assert f"newest good release now: {TAG}" in done.stderr
    after = newest(two)
    assert parse_block(after.notes).yanked == REASON
    assert after.assets == before.assets
    assert "Withdrawn" in after.notes.splitlines()[1]
    assert "left &amp; right are swapped &lt;b&gt;" in after.notes
    assert "By hand\n\n<!-- a comment -->" in after.notes

    fetched = mreg("fetch", NAME, "--json", *where)
    assert json.loads(fetched.stdout)[0]["tag"] == TAG
    assert f"{NAME}@r20260202 is yanked and passed over: {REASON}" in fetched.stderr
    tagged = mreg("fetch", f"{NAME}@r20260202", *where)
    assert tagged.exit_code == 0
    assert f"is yanked and should not be used any more: {REASON}" in tagged.stderr
    assert f"newest good release: {NAME}@{TAG}" in tagged.stderr

    listed = mreg("list", *where).stdout
    assert f"{TAG} (yanked: r20260202)" in listed
    (entry,) = json.loads(mreg("list", "--json", *where).stdout)
    assert (entry["tag"], entry["yanked"]) == (TAG, [{"tag": "r20260202", "reason": REASON}])
    shown = mreg("show", f"{NAME}@r20260202", *where).stdout
    assert f"yanked, do not use: {REASON}" in shown
    document = json.loads(mreg("show", NAME, "--json", *where).stdout)
    assert [(r["tag"], r["yanked"]) for r in document["releases"]] == [("r20260202", REASON), (TAG, None)]
    assert mreg("yank", f"{NAME}@{TAG}", "--reason", REASON, *where).exit_code == 0
    assert "every release is withdrawn" in mreg("show", NAME, *where).stdout


def test_a_second_time_nothing_is_written_and_undo_restores_the_notes(two, mreg, request):
    where = ("--registry", two.location)
    before = newest(two).notes
    command = ("yank", f"{NAME}@r20260202", "--reason", REASON, "--json", *where)
    assert json.loads(mreg(*command).stdout)["changed"] is True
    github = two.location.startswith("github:")
    hub = request.getfixturevalue("hub") if github else None
    writes = hub.count("PATCH") if hub else 0
    assert json.loads(mreg(*command).stdout) == {
        "ref": f"{NAME}@r20260202",
        "reason": REASON,
        "changed": False,
        "url": newest(two).url,
        "next": TAG,
        "yanked": True,
    }
    assert hub is None or hub.count("PATCH") == writes
    undone = json.loads(mreg("yank", f"{NAME}@r20260202", "--undo", "--json", *where).stdout)
    assert (undone["yanked"], undone["next"]) == (False, "r20260202")
    assert parse_block(newest(two).notes).yanked == ""
    assert newest(two).notes.startswith(before)
    assert "Withdrawn" not in newest(two).notes


def test_offline_the_reason_is_remembered(two, mreg):
    where = ("--registry", two.location)
    mreg("yank", f"{NAME}@r20260202", "--reason", REASON, *where)
    mreg("fetch", f"{NAME}@r20260202", *where)
    assert REASON in mreg("fetch", f"{NAME}@r20260202", "--offline", *where).stderr
    assert mreg("fetch", NAME, "--offline", *where).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((NAME, "--reason", "x"), 1, "say which release"),
        ((f"{NAME}@{TAG}",), 2, "either --reason TEXT or --undo"),
        ((f"{NAME}@{TAG}", "--reason", "x", "--undo"), 2, "either --reason TEXT or --undo"),
        ((f"{NAME}@{TAG}", "--reason", "  "), 1, "no reason"),
        ((f"{NAME}@{TAG}", "--reason", "x" * 501), 1, "501 characters"),
        ((f"{NAME}@r20990101", "--reason", "x"), 1, f"there are: {TAG}"),
    ],
)
def test_what_cannot_be_yanked_is_one_error(released, mreg, arguments, code, word):
    result = mreg("yank", *arguments, "--registry", released.location)
    assert result.exit_code == code
    assert word in result.stderr
    assert newest(released).notes == ""


def test_a_token_that_may_not_write_is_told_so(released_github, hub, mreg, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", hub.add_token("ghp_reader", can=()))
    result = mreg("yank", f"{NAME}@{TAG}", "--reason", "x", "--registry", "github:ivadomed")
    assert result.exit_code == 1
    assert "contents" in result.stderr.lower()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["", "Text", "a\r\nb\r\n", "<!-- c -->\n\nx"]))
def test_a_warning_is_replaced_and_taken_away_again(first, second, prose):
    block = notes.Block(archive="x.zip")
    start = write_block(prose, block)
    warned = write_warning(write_warning(start, first), second)
    assert warned.count("<!-- mreg:yanked -->") == (1 if second else 0)
    assert parse_block(warned) == block
    assert write_warning(warned, "") == start
