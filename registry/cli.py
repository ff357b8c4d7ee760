"""The `mreg` command: verbs are loaded when they are used, and errors become exit statuses here only."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from typing import Any

import click

from registry import __version__
from registry.errors import MregError

# Verb → the first line of its help, by what it is for. A test holds this table equal to the commands themselves.
SECTIONS = {
    "Make a model": {
        "name": "Explain model names and release tags.",
        "new": "Create a model's repository from its name.",
        "data": "Import and verify datasets.",
        "train": "Train a model with the recipe of its model.toml.",
        "predict": "Run a model on images.",
        "evaluate": "Measure a model on labelled cases.",
        "check": "Report everything that is wrong with a repo, dataset, run, archive or release.",
    },
    "Release it": {
        "package": "Build the release archive of a run.",
        "sign": "Sign a package's manifest with a key, before it is released.",
        "release": "Publish a model's archive as a release.",
        "draft": "Fetch and publish a draft, as the release workflow does.",
        "mirror": "Copy a release to a second place.",
        "yank": "Withdraw a release, which stays downloadable.",
    },
    "Use what is released": {
        "list": "List the registry's models.",
        "show": "Show one model and its releases.",
        "fetch": "Download released models.",
        "verify": "Prove what a release's files are.",
        "diff": "Tell what changed between two releases.",
        "sct": "Show what the Spinal Cord Toolbox will do with a release.",
    },
    "On this machine": {
        "doctor": "Tell what is missing on this machine, and what mends it.",
        "demo": "Run the whole chain on real MRI, offline.",
    },
}
VERBS = {verb: line for verbs in SECTIONS.values() for verb, line in verbs.items()}


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is called, and no sooner."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Leave colours out where the user wants none (no-color.org), or where the terminal knows none."""
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            extra.setdefault("color", False)
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"registry.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lists of verbs from the table, without importing them."""
        width = max(map(len, VERBS))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.ljust(width), line) for verb, line in verbs.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; for a mistyped one name the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            if not near:
                raise
            raise click.UsageError(f"No such command '{args[0]}'. Did you mean '{near[0]}'?", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; turn an expected error into `error:` and `hint:` on stderr and exit status 1."""
        try:
            return super().invoke(ctx)
        except MregError as error:
            fail(error.message, error.hint)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of stdout has gone
        except OSError as error:
            fail(*explain_os_error(error))


def fail(message: str, hint: str = "") -> None:
    """Print the error and its way out, and leave with status 1."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {hint}", err=True)
    raise SystemExit(1)


def explain_os_error(error: OSError) -> tuple[str, str]:
    """Say what the operating system refused, and for which file."""
    where = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
    what = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space left on the device", "free some space, then run the same command again: it continues"
    return f"{where}{what}", ""


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="mreg COMMAND --help has the options and examples of a command. The manual: "
    "https://github.com/ivadomed/mreg#read-on",
)
@click.version_option(__version__, prog_name="mreg")
def group() -> None:
    """Name, train, check, release and fetch medical-imaging models.

    \b
    Start here:
      mreg demo                      the whole chain on real MRI, offline
      mreg new model_seg_sc_t2       a new model's repository
      mreg fetch model_seg_sc_t2     a released model
    """


def main() -> None:
    """Entry point of the `mreg` command."""
    # A scheduler's SIGTERM must run the same clean-up as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    group()
