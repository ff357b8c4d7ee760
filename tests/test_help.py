"""Help texts and the manual: what they tell people to type is what the commands take."""

import re
import shlex
from pathlib import Path

import click
import pytest

from registry import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TWO_MEANINGS = {"--data", "--run", "--tag"}  # a switch of one command, with a value in another
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?:bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands():
    """Yield the words and the command of every verb, those of groups with the groups themselves."""
    for verb in cli.VERBS:
        command = cli.group.get_command(click.Context(cli.group), verb)
        yield [verb], command
        if isinstance(command, click.Group):
            yield from (([verb, name], part) for name, part in command.commands.items())


COMMANDS = {" ".join(words): command for words, command in _commands()}


def _typed(text):
    """Return the commands of a text, one a string, with their continued lines."""
    whole = re.sub(r"\\\n\s*", " ", text)
    return [line.strip().removeprefix("$ ") for line in whole.splitlines() if re.match(r"\s*(\$ )?mreg \S", line)]


def _parse(line):
    """Let click parse a command and do nothing; files that are not there are no mistake of the text's."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((n for n, word in enumerate(words) if word in {">", "|", "||", "&&"}), None)]
    if {"-h", "--help", "--version"} & set(words):
        return
    command, context = cli.group, click.Context(cli.group, info_name="mreg")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, context, info_name=name)
    try:
        with command.make_context(context.info_name, words, parent=context.parent):
            pass
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise


@pytest.fixture(params=COMMANDS, scope="module")
def words(request):
    return request.param.split()


def test_a_help_text_fits_a_narrow_terminal_and_says_what_each_value_is(mreg, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = mreg(*words, "--help").stdout
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "..." not in text.partition("Commands:\n")[2]
    options = [p for p in COMMANDS[" ".join(words)].params if isinstance(p, click.Option) and not p.is_flag]
    assert [p.name for p in options if not p.metavar and not isinstance(p.type, click.Choice)] == []


def test_the_examples_of_a_help_text_can_be_typed_as_they_stand(mreg, words):
    examples = _typed(mreg(*words, "--help").stdout.partition("Example")[2])
    assert examples
    for line in examples:
        _parse(line)


def test_options_of_one_name_take_the_same_kind_of_value_everywhere():
    kinds, letters = {}, {}
    for name, command in COMMANDS.items():
        for option in (p for p in command.params if isinstance(p, click.Option)):
            long = next(text for text in option.opts if text.startswith("--"))
            kinds.setdefault((long, option.is_flag, option.nargs), []).append(name)
            for short in (text for text in option.opts if not text.startswith("--")):
                letters.setdefault(short, set()).add(long)
    names = [key[0] for key in kinds]
    assert {name for name in names if names.count(name) > 1} == TWO_MEANINGS
    assert letters == {"-o": {"--out"}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_the_manual_can_be_typed_as_they_stand(page):
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in _typed(block):
            _parse(line)


def _anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_to_what_is_there(page):
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_readme_leads_to_every_page_and_a_page_begins_with_what_it_is_for():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", (ROOT / "README.md").read_text()))
    pages = {page.name: page.read_text() for page in (ROOT / "docs").glob("*.md")}
    assert linked == set(pages)
    without = {"model-toml.md", "rules.md", "schemas.md", "benchmarks.md"}
    for name, text in pages.items():
        assert re.match(r"# \S[^\n]*\n\n[A-Z`]", text), name
        assert name in without or "mreg " in text.partition("\n## ")[0], name
