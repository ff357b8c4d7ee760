"""The group: lazy verbs, a light start, and errors that become exit statuses."""

import errno
import importlib
import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from registry import cli
from registry.errors import MregError

HEAVY = {"torch", "nibabel", "blosc2", "github", "pydantic", "numpy", "rich", "jsonschema", "requests", "nnunetv2"}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_table_of_verbs_is_each_commands_own_first_help_line(verb):
    command = importlib.import_module(f"registry.commands.{verb}").command
    assert command.name == verb
    assert command.help.strip().splitlines()[0] == cli.VERBS[verb]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself_with_examples(mreg, verb):
    result = mreg(verb, "--help")
    assert result.exit_code == 0
    assert f"  mreg {verb}" in result.stdout


def test_help_lists_every_verb(mreg):
    text = mreg("--help").stdout
    assert re.findall(r"^  (\w+)  +[A-Z]", text, flags=re.MULTILINE) == list(cli.VERBS)
    assert all(f"\n{title}:\n" in text for title in cli.SECTIONS)


def test_every_recipe_can_be_planned_and_trained():
    from registry.training import MODULES
    from trainers.catalog import RECIPES

    assert set(MODULES) == set(RECIPES)
    assert all(callable(getattr(module, part)) for module in MODULES.values() for part in ("plan", "cache", "job"))


@pytest.mark.parametrize("code", ["import registry.cli", "main(['--help'])", "main(['name', 'model_seg_sc_t2'])"])
def test_the_command_line_starts_without_heavy_libraries(code):
    script = f"""
import sys
from registry.cli import group
def main(arguments):
    group.main(arguments, standalone_mode=False)
{code}
print("loaded:", *sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_mistyped_verb_is_a_usage_error_with_the_nearest_one(mreg):
    result = mreg("relese")
    assert result.exit_code == 2
    assert "Did you mean 'release'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_verb_is_a_usage_error(mreg):
    result = mreg("xyzzy")
    assert result.exit_code == 2
    assert "No such command 'xyzzy'" in result.stderr
    assert "Did you mean" not in result.stderr


@pytest.fixture
def failing(monkeypatch):
    """Make `mreg name` raise an error of the test's choice."""

    def with_error(error):
        @click.command("name")
        def command():
            raise error

        monkeypatch.setattr("registry.commands.name.command", command)

    return with_error


def test_an_expected_error_becomes_a_message_a_hint_and_status_1(mreg, failing):
    failing(MregError("dataset.json has no labels", hint="add them"))
    result = mreg("name")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: dataset.json has no labels\nhint: add them\n"


def test_an_error_without_a_hint_has_no_hint_line(mreg, failing):
    failing(MregError("no"))
    assert mreg("name").stderr == "error: no\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_where_nobody_wants_them(monkeypatch, variable, value):
    def shown(*arguments):
        return CliRunner().invoke(cli.group, arguments, color=True).output

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert all("\x1b[" in shown(*arguments) for arguments in (["name", "model_seg_sc"], ["train", "nowhere"]))
    monkeypatch.setenv(variable, value)
    assert "\x1b[" not in shown("name", "model_seg_sc") + shown("train", "nowhere")


def test_a_full_disk_is_named_with_its_file_and_the_way_out(mreg, failing):
    failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/fold_0/checkpoint_latest.pth"))
    result = mreg("name")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "error: runs/fold_0/checkpoint_latest.pth: no space left on the device"
    assert "run the same command again" in result.stderr.splitlines()[1]


def test_an_operating_system_error_names_its_file(mreg, failing):
    failing(PermissionError(errno.EACCES, "Permission denied", "/srv/models"))
    result = mreg("name")
    assert (result.exit_code, result.stderr) == (1, "error: /srv/models: Permission denied\n")


def test_a_bug_is_not_dressed_up_as_an_expected_error(mreg, failing):
    failing(KeyError("surprise"))
    with pytest.raises(KeyError):
        mreg("name")


def test_a_reader_that_leaves_early_is_no_error():
    names = ["model_seg_sc_t2"] * 20_000
    process = subprocess.Popen(
        [sys.executable, "-m", "registry", "name", *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
