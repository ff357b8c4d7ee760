"""Detached signatures of a release's manifest, for places without GitHub Actions.

The signature is OpenSSH's own (`ssh-keygen -Y sign`, namespace mreg-release) with an Ed25519 key: people have such a
key already, and everybody can verify it without mreg:

    ssh-keygen -Y verify -f SIGNERS -I NAME -n mreg-release -s mreg-release.json.sig < mreg-release.json

The manifest names the SHA-256 of every archive, so its signature covers them. The format is OpenSSH's PROTOCOL.sshsig;
keys and curve arithmetic are those of the library cryptography. A key in ssh-agent or on a token signs with ssh-keygen
itself; a `mreg-release.json.sig` that lies beside the manifest is released with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import IntegrityError, MregError, NotFoundError
from registry.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_NAME = f"{MANIFEST_NAME}.sig"
NAMESPACE = b"mreg-release"  # a signature that was made for something else proves nothing here
PASSPHRASE = "MREG_SIGN_PASSPHRASE"  # noqa: S105 - the name of a variable
_MAGIC, _KIND, _HASH = b"SSHSIG", b"ssh-ed25519", "sha512"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = 70
_KEY = re.compile(r"(?:^|\s)ssh-ed25519\s+([A-Za-z0-9+/=]+)(?:\s+(.*))?$")
MAX_BYTES = 10_000


class OtherKindError(MregError):
    """A signature that only ssh-keygen understands: of a security key, for example."""


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """Who may sign."""

    blob: bytes  # as OpenSSH writes it: kind and 32 bytes of the point
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """Return what `ssh-keygen -l` prints."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"

    @property
    def line(self) -> str:
        """Return the line of a .pub file."""
        return f"ssh-ed25519 {base64.b64encode(self.blob).decode()} {self.comment}".strip()

    def __str__(self) -> str:
        return f"{self.comment} ({self.fingerprint})" if self.comment else self.fingerprint


def sign_file(manifest: Path, key: Path, out: Path | None = None, ask: Callable[[str], str] | None = None) -> Path:
    """Write the signature of a manifest beside it, or into `out`, and return its path.

    `ask` is asked for a passphrase where the key has one and MREG_SIGN_PASSPHRASE is not set. The same key and the same
    manifest give the same bytes. Raises `MregError` for a key that cannot sign.
    """
    from registry.files import write_text

    private = _load(key, ask)
    data = manifest.read_bytes()
    text = _armour(data, private)
    signer(data, text)  # what is published has been read back
    target = (out or manifest.parent) / SIGNATURE_NAME
    write_text(target, text)
    return target


def manifest_in(path: Path) -> Path:
    """Return the manifest that a path names: itself, its folder, or a repo, whose newest package counts."""
    if path.is_file():
        return path
    if (path / MANIFEST_NAME).is_file():
        return path / MANIFEST_NAME
    from registry.model_toml import find_repo

    dist = find_repo(path).dist
    found = sorted(dist.glob(f"*/{MANIFEST_NAME}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise NotFoundError(f"{dist}: no package", hint="mreg package makes one")
    return found[-1]


def signer(data: bytes, text: str) -> PublicKey:
    """Return the key that has signed exactly these bytes for this purpose; raise `IntegrityError` where none has.

    This says nothing of whose key it is: everybody can make one.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key, namespace, algorithm, signature = _read(text)
    if namespace != NAMESPACE:
        raise _broken(f"made for {namespace.decode(errors='replace')!r} and not for a release")
    try:
        point = _exactly(key, 2)[1]
        public = Ed25519PublicKey.from_public_bytes(point)
        public.verify(_exactly(signature, 2)[1], _signed(data, algorithm))
    except (InvalidSignature, ValueError, IndexError):
        raise _broken("does not belong to these bytes: one of the two was changed") from None
    return PublicKey(blob=key)


def read_keys(text: str) -> list[PublicKey]:
    """Read public keys: lines of .pub files, authorized_keys or OpenSSH's allowed_signers; others are passed over.

    >>> read_keys("# nobody yet")
    []
    """
    found = []
    for line in text.splitlines():
        match = _KEY.search(line.strip())
        if not match or line.lstrip().startswith("#"):
            continue
        try:
            blob = base64.b64decode(match[1], validate=True)
        except binascii.Error:
            continue
        before = line.strip()[: match.start()].split()
        found.append(PublicKey(blob=blob, comment=(match[2] or (before[0] if before else "")).strip()))
    return found


def trusted_keys(given: str) -> list[PublicKey]:
    """Read what `--key` names: a file of public keys, or one key itself; raise where it holds none."""
    is_key = given.startswith("ssh-")
    if not is_key and not Path(given).is_file():
        raise NotFoundError(f"{given}: no such file", hint="--key takes a .pub file, a list of them, or a key itself")
    text = given if is_key else Path(given).read_text(encoding="utf-8", errors="replace")
    if "PRIVATE KEY" in text:
        raise MregError(f"{given}: a private key; verifying needs the public one only", hint=f"--key {given}.pub")
    keys = read_keys(text)
    if not keys:
        raise MregError(f"{given}: holds no ssh-ed25519 key", hint="other kinds of keys are not understood")
    return keys


def _load(path: Path, ask: Callable[[str], str] | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    hint = f"make one: ssh-keygen -t ed25519 -f {path}"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"{path}: no such key", hint=hint) from None
    if read_keys(data.decode(errors="replace")):
        other = f"ssh-keygen -Y sign -n {NAMESPACE.decode()} -f {path} {MANIFEST_NAME}"
        raise MregError(f"{path}: a public key cannot sign", hint=f"with a key in ssh-agent: {other}")
    try:
        key = load_ssh_private_key(data, None)
    except TypeError:  # it has a passphrase
        try:
            key = load_ssh_private_key(data, _passphrase(path, ask).encode())
        except (ValueError, TypeError):
            raise MregError(f"{path}: the passphrase does not open this key") from None
    except (ValueError, UnsupportedAlgorithm):  # the library's own words may quote the file
        raise MregError(f"{path}: not a private key of OpenSSH", hint=hint) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise MregError(f"{path}: not an Ed25519 key", hint=hint)
    return key


def _passphrase(path: Path, ask: Callable[[str], str] | None) -> str:
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if ask is None:
        raise MregError(f"{path}: the key has a passphrase", hint=f"set {PASSPHRASE}, or run in a terminal")
    return ask(f"Passphrase of {path}")


def _armour(data: bytes, key: Ed25519PrivateKey) -> str:
    point = key.public_key().public_bytes_raw()
    signature = _strings(_KIND, key.sign(_signed(data, _HASH)))
    fields = _strings(_strings(_KIND, point), NAMESPACE, b"", _HASH.encode(), signature)
    body = base64.b64encode(_MAGIC + struct.pack(">I", 1) + fields).decode()
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def _read(text: str) -> tuple[bytes, bytes, str, bytes]:
    """Return key, namespace, hash and signature of an armoured signature; raise `IntegrityError`."""
    body = text.strip().removeprefix(_BEGIN).removesuffix(_END)
    if len(text) > MAX_BYTES or len(body) != len(text.strip()) - len(_BEGIN) - len(_END):
        raise _broken("is not one of OpenSSH's")
    try:
        raw = base64.b64decode("".join(body.split()), validate=True)
        if raw[:6] != _MAGIC or struct.unpack(">I", raw[6:10]) != (1,):
            raise _broken("is not one of OpenSSH's")
        key, namespace, _, algorithm, signature = _exactly(raw[10:], 5)
        kinds = {_exactly(key, 2, at_least=True)[0], _exactly(signature, 2, at_least=True)[0]}
    except (binascii.Error, struct.error, ValueError, IndexError):
        raise _broken("cannot be read") from None
    if kinds != {_KIND}:
        kind = b", ".join(sorted(kinds)).decode(errors="replace")
        raise OtherKindError(
            f"{SIGNATURE_NAME}: a signature of kind {kind}, which mreg does not know",
            hint="verify it with ssh-keygen -Y verify",
        )
    if algorithm not in (b"sha256", b"sha512"):
        raise _broken("uses a hash that OpenSSH does not")
    return key, namespace, algorithm.decode(), signature


def _signed(data: bytes, algorithm: str) -> bytes:
    return _MAGIC + _strings(NAMESPACE, b"", algorithm.encode(), hashlib.new(algorithm, data).digest())


def _strings(*values: bytes) -> bytes:
    """Write SSH strings: four bytes of length each, then the bytes."""
    return b"".join(struct.pack(">I", len(value)) + value for value in values)


def _exactly(data: bytes, count: int, *, at_least: bool = False) -> list[bytes]:
    """Read `count` SSH strings and nothing else; raise `ValueError` or `struct.error`."""
    found, start = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from(">I", data, start)
        if start + 4 + length > len(data):
            raise ValueError("cut off")
        found.append(data[start + 4 : start + 4 + length])
        start += 4 + length
    if start != len(data) and not at_least:
        raise ValueError("something follows")
    return found


def _broken(what: str) -> IntegrityError:
    return IntegrityError(f"{SIGNATURE_NAME}: the signature {what}", hint="do not use the release")
