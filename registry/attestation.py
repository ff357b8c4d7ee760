"""Build provenance: what a Sigstore bundle says of an archive, and who can confirm it.

A bundle is believed only when `gh attestation verify` or the library sigstore has verified it. Without either of them
only one thing can be said: whether the bundle speaks of these bytes at all.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Literal

from registry.stores import is_offline

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".sigstore.json"
# Who signs: the reusable workflow, or a workflow of the model's own repository.
SIGNER_WORKFLOW = "ivadomed/mreg/.github/workflows/model-release.yml"
ISSUER = "https://token.actions.githubusercontent.com"
GH_SECONDS = 120
# What gh says when it could not look, rather than when it has looked and found something wrong.
_COULD_NOT = (
    "gh auth login", "dial tcp", "no such host", "connection refused", "timeout", "tuf", "trusted root", "network",
    "unknown command", "unknown flag", "proxyconnect", "HTTP 401", "HTTP 403", "HTTP 5",
)  # fmt: skip

Outcome = tuple[Literal["ok", "failed", "unverified"], str]


def verify(archive: Path, sha256: str, bundle: Path, repo: str) -> Outcome:
    """Verify that a workflow of `repo` (OWNER/NAME, "" where nobody knows) has built exactly these bytes."""
    try:
        attested = subjects(bundle.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return "failed", f"the bundle cannot be read: {error}"
    if sha256 not in attested:
        return "failed", "the bundle speaks of other bytes"
    if not repo:
        return "unverified", "nobody has said which repository should have built it: give --repo OWNER/NAME"
    answers = [answer for check in (_by_gh, _by_sigstore) if (answer := check(archive, bundle, repo))]
    for state, message in answers:
        if state != "unverified":
            return state, message
    missing = "neither gh (2.49 or newer) nor the library sigstore is installed"
    reasons = "; ".join(message for _, message in answers) or missing
    return "unverified", f"the bundle names these bytes, but its signature was not verified: {reasons}"


def subjects(text: str) -> set[str]:
    """Return the SHA-256 digests that the statements of one bundle, or of several lines of bundles, name."""
    found = set()
    for bundle in _bundles(text):
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        found |= {subject["digest"]["sha256"] for subject in statement["subject"]}
    return found


def _bundles(text: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _by_gh(archive: Path, bundle: Path, repo: str) -> Outcome | None:
    """Ask GitHub's command line, which needs no login for a bundle; None where it is not installed."""
    program = shutil.which("gh")
    if program is None:
        return None
    said = ""
    for more in (["--signer-workflow", SIGNER_WORKFLOW], []):
        command = [program, "attestation", "verify", str(archive), "--bundle", str(bundle), "--repo", repo, *more]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=GH_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return "unverified", f"gh: {type(error).__name__}"
        if done.returncode == 0:
            return "ok", f"built by a workflow of {repo}, says gh"
        said = " ".join((done.stderr or done.stdout).split())[:300] or f"exit status {done.returncode}"
        if any(word.lower() in said.lower() for word in _COULD_NOT):
            return "unverified", f"gh: {said}"
    return "failed", f"gh: {said}"


def _by_sigstore(archive: Path, bundle: Path, repo: str) -> Outcome | None:  # noqa: ARG001 - the digest was compared
    """Ask the library sigstore; None where it is not installed."""
    try:
        from sigstore.errors import Error, VerificationError
        from sigstore.models import Bundle, InvalidBundle
        from sigstore.verify import Verifier, policy
    except ImportError:
        return None
    wanted = policy.AllOf([policy.OIDCIssuer(ISSUER), policy.GitHubWorkflowRepository(repo)])
    root = ""
    try:
        verifier = Verifier.production(offline=is_offline())
    except (Error, OSError):  # no network: the root that the library brought along, or fetched before
        root = ", with a trusted root that may be old"
        try:
            verifier = Verifier.production(offline=True)
        except (Error, OSError) as error:
            return "unverified", f"sigstore has no trusted root: {' '.join(str(error).split())[:200]}"
    try:
        for document in _bundles(bundle.read_text(encoding="utf-8")):
            verifier.verify_dsse(Bundle.from_json(json.dumps(document)), wanted)
    except (VerificationError, InvalidBundle) as error:
        return "failed", f"sigstore: {' '.join(str(error).split())[:300]}"
    except (Error, OSError) as error:
        return "unverified", f"sigstore: {' '.join(str(error).split())[:300]}"
    return "ok", f"built by a workflow of {repo}, says sigstore{root}"
