"""`mreg sign`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from registry import output
from registry.commands._options import json_option


@click.command("sign")
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Private Ed25519 key of OpenSSH.",
)
@json_option
def command(path: Path, key: Path, as_json: bool) -> None:
    """Sign a package's manifest with a key, before it is released.

    PATH is a manifest, the folder that holds it, or a model's repo (its newest package). The signature is
    mreg-release.json.sig beside it, which mreg release publishes and mreg verify checks. A passphrase is asked for, or
    read from MREG_SIGN_PASSPHRASE. Only the signature leaves this machine, never the key.

    \b
    Examples:
      mreg sign --key ~/.ssh/id_ed25519
      mreg sign dist/r20260131 --key ~/.ssh/id_ed25519
      mreg release --tag r20260131 --sign ~/.ssh/id_ed25519
    """
    from registry.signing import manifest_in, sign_file, signer

    manifest = manifest_in(path)
    ask = output.ask_secret if sys.stdin.isatty() else None
    signature = sign_file(manifest, key, ask=ask)
    fingerprint = signer(manifest.read_bytes(), signature.read_text()).fingerprint
    if as_json:
        output.document({"signature": str(signature), "fingerprint": fingerprint})
    else:
        output.say(f"signed by {fingerprint}")
        output.answer(signature)
