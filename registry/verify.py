"""What can be proven of a release, and what cannot: digests, manifest, provenance, signature."""

from __future__ import annotations

import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from registry import attestation, notes, refs, signing
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.manifest import MANIFEST_NAME, Manifest
from registry.manifest import parse as parse_manifest
from registry.material import FolderMaterial, ReleasedMaterial
from registry.published import resolve
from registry.release_files import CHECKSUMS
from registry.stores import open_store
from registry.unpack import is_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.material import Material
    from registry.signing import PublicKey
    from registry.stores import Store

State = Literal["ok", "failed", "unverified"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str  # "manifest", "digest", "checksums", "signature", "provenance", "withdrawn"
    state: State
    message: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All that was looked at."""

    target: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; some of it may not have been verified."""
        return not any(check.state == "failed" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg verify --json`."""
        return {
            "target": self.target,
            "ok": self.ok,
            "verified": all(check.state == "ok" for check in self.checks),
            "checks": [asdict(check) for check in self.checks],
        }


def verify(text: str, registry: str | None = None, *, keys: tuple[str, ...] = (), repo: str = "") -> Verdict:
    """Verify a release, or an archive with what lies beside it.

    `keys` are files of public keys, or keys, that the caller trusts; without them those of the repository's model.toml
    count. `repo` (OWNER/NAME) should have built a local archive. Raises `MregError` where there is nothing to verify.
    """
    trusted = [key for given in keys for key in signing.trusted_keys(given)]
    ref = refs.parse(text)
    if isinstance(ref, refs.RepoRef):
        store = open_store(registry)
        release = resolve(ref, store)
        repo = repo or (f"{store.location.removeprefix('github:')}/{ref.name}" if "github:" in store.location else "")
        checks = list(_withdrawn(notes.block_of(release).yanked))
        with tempfile.TemporaryDirectory(prefix="mreg-verify-") as folder:
            checks += _all(ReleasedMaterial(store, release, Path(folder)), trusted, repo, store)
        return Verdict(target=f"{ref.name}@{release.tag}", checks=tuple(checks))
    if isinstance(ref, refs.UrlRef):
        raise MregError(f"{text}: an address proves nothing about itself", hint="fetch it, then verify the file")
    material = FolderMaterial(ref.path)
    return Verdict(target=str(ref.path), checks=tuple(_all(material, trusted, repo, None)))


def _withdrawn(reason: str) -> Iterator[Check]:
    if reason:
        yield Check(what="withdrawn", state="unverified", message=f"yanked, should not be used: {reason}")


def _all(material: Material, trusted: list[PublicKey], repo: str, store: Store | None) -> Iterator[Check]:
    data: bytes | None = None
    manifest: Manifest | None = None
    try:
        data = material.read(MANIFEST_NAME)
    except IntegrityError as error:
        yield Check(what="manifest", state="failed", message=error.message)
        return
    if data is None:
        yield Check(what="manifest", state="unverified", message=f"there is no {MANIFEST_NAME}: not made with mreg")
    else:
        try:
            manifest = parse_manifest(data)
            material.require_tag(manifest)
            yield Check(what="manifest", state="ok", message=f"of {manifest.name}@{manifest.tag}")
        except IntegrityError as error:
            yield Check(what="manifest", state="failed", message=error.message)
    for name in material.wanted(manifest):
        yield from _archive(material, name, manifest, repo)
    if manifest:
        yield from _strangers(material, manifest)
        yield from _checksums(material, manifest, data or b"")
    if data is not None:
        yield from _signature(material, data, trusted, manifest, store)


def _archive(material: Material, name: str, manifest: Manifest | None, repo: str) -> Iterator[Check]:
    """Compare an archive's bytes with what the manifest and the registry say, then ask for its provenance."""
    try:
        path, digest = material.archive(name)
    except (NotFoundError, IntegrityError) as error:
        yield Check(what="digest", state="failed", message=error.message)
        return
    promised = manifest.sha256_of(name) if manifest else ""
    stated = material.stated(name)
    if any(other and other != digest for other in (promised, stated)):
        yield Check(what="digest", state="failed", message=f"{name}: SHA-256 is {digest}, not {promised or stated}")
        return
    by = [who for who, known in (("manifest", promised), ("registry", stated)) if known]
    if name.lower().endswith(".zip") and not is_archive(path):
        yield Check(what="digest", state="failed", message=f"{name}: not a zip archive, or cut off")
    elif by:
        yield Check(what="digest", state="ok", message=f"{name}: {digest}, as {' and '.join(by)} say")
    else:
        yield Check(
            what="digest", state="unverified", message=f"{name}: is {digest}; nobody here says what it should be"
        )
    bundle = material.file(name + attestation.SUFFIX)
    if bundle is None:
        message = f"{name}: no attestation (published without GitHub Actions)"
        yield Check(what="provenance", state="unverified", message=message)
        return
    state, message = attestation.verify(path, digest, bundle, repo)
    yield Check(what="provenance", state=state, message=f"{name}: {message}")


def _strangers(material: Material, manifest: Manifest) -> Iterator[Check]:
    """Tell archives that the manifest does not name; other files (figures, attestations) carry no weights."""
    for name in material.names():
        if name.lower().endswith(".zip") and name not in material.wanted(manifest):
            yield Check(what="digest", state="failed", message=f"{name}: an archive that the manifest does not name")


def _checksums(material: Material, manifest: Manifest, data: bytes) -> Iterator[Check]:
    """Compare SHA256SUMS, which people without mreg read, with the manifest, which programs read."""
    import hashlib

    sums = material.read(CHECKSUMS)
    if sums is None:
        return
    wanted = {asset.name: asset.sha256 for asset in manifest.assets} | {MANIFEST_NAME: hashlib.sha256(data).hexdigest()}
    lines = [line.split() for line in sums.decode(errors="replace").splitlines() if line.strip()]
    said = {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}  # noqa: PLR2004 - digest and name
    other = sorted(name for name, digest in said.items() if wanted.get(name, digest) != digest)
    if other:
        yield Check(what="checksums", state="failed", message=f"{CHECKSUMS} says something else of {', '.join(other)}")
    else:
        yield Check(what="checksums", state="ok", message=f"{CHECKSUMS} agrees with the manifest")


def _signature(
    material: Material, data: bytes, trusted: list[PublicKey], manifest: Manifest | None, store: Store | None
) -> Iterator[Check]:
    text = material.read(signing.SIGNATURE_NAME)
    keys, whose = trusted, "--key"
    if not keys and manifest:
        keys, whose = _listed(manifest, store)
    if text is None:
        if keys:
            state: State = "failed" if trusted else "unverified"
            yield Check(what="signature", state=state, message=f"there is none, though {whose} names who signs")
        return
    try:
        key = signing.signer(data, text.decode(errors="replace"))
    except IntegrityError as error:
        yield Check(what="signature", state="failed", message=error.message)
        return
    except MregError as error:  # a kind of key that only ssh-keygen knows
        yield Check(what="signature", state="unverified", message=f"{error.message}: {error.hint}")
        return
    known = next((candidate for candidate in keys if candidate.blob == key.blob), None)
    if known:
        yield Check(what="signature", state="ok", message=f"by {known}, whom {whose} trusts")
    elif keys:
        yield Check(what="signature", state="failed", message=f"by {key}, who is not among the keys of {whose}")
    else:
        message = f"intact, by {key}; whose key that is, nobody here says: a key proves nothing by itself, give --key"
        yield Check(what="signature", state="unverified", message=message)


def _listed(manifest: Manifest, store: Store | None) -> tuple[list[PublicKey], str]:
    """Return the keys of model.toml: the working copy's that we stand in, else the repository's default branch's.

    Never those of the release itself: whoever can change its files could change that list with them.
    """
    from registry.model_toml import FILE_NAME, find_repo

    try:
        repo = find_repo(Path())
        if repo.name == manifest.name and repo.toml.release.signers:
            return signing.read_keys("\n".join(repo.toml.release.signers)), f"{FILE_NAME} of this working copy"
    except MregError:
        pass
    if store is None:
        return [], ""
    try:
        document = tomllib.loads(store.read_file(manifest.name, FILE_NAME).decode())
        signers = document.get("release", {}).get("signers", [])
    except (MregError, ValueError, AttributeError):
        return [], ""
    lines = [line for line in signers if isinstance(line, str)] if isinstance(signers, list) else []
    return signing.read_keys("\n".join(lines)), f"{FILE_NAME} of the repository in {store.location}"
