"""`mreg verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option
from registry.commands._tables import aligned

if TYPE_CHECKING:
    from registry.verify import Verdict

_COLOURS = {"ok": "green", "failed": "red", "unverified": "yellow"}


@click.command("verify")
@click.argument("ref", metavar="REF|FILE")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Public key that you trust, or a file of them [default: [release] signers of the repository's model.toml].",
)
@click.option("--repo", default="", metavar="OWNER/NAME", help="Repository that should have built a local archive.")
@registry_option
@json_option
@click.pass_context
def command(
    context: click.Context, ref: str, keys: tuple[str, ...], repo: str, registry: str | None, as_json: bool
) -> None:
    """Prove what a release's files are.

    Compares every archive with the manifest and the registry's digests, verifies the attestation of its build (with gh
    or the library sigstore, where installed) and the manifest's signature. What could not be verified is said, with
    the reason. The exit status is 1 where something is wrong.

    \b
    Examples:
      mreg verify model_seg_sc_t2
      mreg verify model_seg_sc_t2@r20260131 --key ada.pub
      mreg verify model_seg_sc_t2-r20260131.zip --repo ivadomed/model_seg_sc_t2
    """
    from registry.verify import verify

    verdict = verify(ref, registry, keys=keys, repo=repo)
    if as_json:
        output.document(verdict.as_json())
    else:
        output.answer(_page(verdict))
    context.exit(0 if verdict.ok else 1)


def _page(verdict: Verdict) -> str:
    rows = [(_word(check.state), check.what, check.message) for check in verdict.checks]
    lines = [
        line.replace(row[0], click.style(row[0], fg=_COLOURS[check.state]), 1)
        for line, row, check in zip(aligned(rows), rows, verdict.checks, strict=True)
    ]
    failed = sum(check.state == "failed" for check in verdict.checks)
    open_ = sum(check.state == "unverified" for check in verdict.checks)
    end = f"{failed} wrong: do not use it" if failed else "nothing is wrong" + (f", {open_} not verified" * bool(open_))
    return "\n".join([*lines, f"{verdict.target}: {end}"])


def _word(state: str) -> str:
    return {"unverified": "not verified"}.get(state, state)
