"""Signatures: OpenSSH reads ours, we read OpenSSH's, and nothing else passes for one."""

import base64
import json
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fixtures_release import TAG
from fixtures_stores import NAME
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import signing
from registry.errors import IntegrityError, MregError
from registry.signing import SIGNATURE_NAME, read_keys, sign_file, signer, trusted_keys

SECRET = "canary-passphrase-7"


def write_key(path, *, passphrase=""):
    """Write a new private key as ssh-keygen does, and the public one beside it."""
    key = Ed25519PrivateKey.generate()
    cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, cipher))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_name(f"{path.name}.pub").write_text(f"{line} {path.name}@example.org\n")
    return path


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path / "ada")


@pytest.fixture
def manifest(tiny_package, tmp_path):
    folder = tmp_path / "dist" / TAG
    folder.mkdir(parents=True)
    return Path(shutil.copy(tiny_package.manifest, folder))


needs_openssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


@needs_openssh
def test_openssh_verifies_our_signature(key, manifest, tmp_path, mreg):
    result = mreg("sign", manifest, "--key", key)
    assert result.exit_code == 0
    signers = tmp_path / "signers"
    signers.write_text(f"ada@example.org {key.with_name('ada.pub').read_text()}")
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "ada@example.org", "-n", "mreg-release", "-s"]
    done = subprocess.run(
        [*command, result.stdout.strip()], input=manifest.read_bytes(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    changed = subprocess.run([*command, result.stdout.strip()], input=b"other", capture_output=True, check=False)
    assert changed.returncode != 0


@needs_openssh
@pytest.mark.parametrize("algorithm", ["sha512", "sha256"])
def test_we_verify_openssh_s_signature(key, manifest, algorithm):
    command = ["ssh-keygen", "-Y", "sign", "-O", f"hashalg={algorithm}", "-n", "mreg-release", "-f", key, manifest]
    subprocess.run(command, check=True, capture_output=True)
    found = signer(manifest.read_bytes(), manifest.with_name(SIGNATURE_NAME).read_text())
    assert [found.blob] == [k.blob for k in trusted_keys(str(key.with_name("ada.pub")))]
    lines = subprocess.run(["ssh-keygen", "-lf", f"{key}.pub"], capture_output=True, text=True, check=True).stdout
    assert found.fingerprint in lines


@needs_openssh
def test_a_signature_for_another_purpose_is_none(key, manifest):
    subprocess.run(["ssh-keygen", "-Y", "sign", "-n", "git", "-f", key, manifest], check=True, capture_output=True)
    with pytest.raises(IntegrityError, match="made for 'git'"):
        signer(manifest.read_bytes(), manifest.with_name(SIGNATURE_NAME).read_text())


@needs_openssh
def test_a_key_of_another_kind_is_named_and_left_to_openssh(manifest, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ec"], check=True)
    command = ["ssh-keygen", "-Y", "sign", "-n", "mreg-release", "-f", tmp_path / "ec", manifest]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(signing.OtherKindError, match="ecdsa") as caught:
        signer(manifest.read_bytes(), manifest.with_name(SIGNATURE_NAME).read_text())
    assert "ssh-keygen -Y verify" in caught.value.hint
    with pytest.raises(MregError, match="not an Ed25519 key"):
        sign_file(manifest, tmp_path / "ec")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_signature_passes(data):

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mreg-release.json")
        file.write_bytes(b"{}")
        text = sign_file(file, write_key(Path(folder, "key"))).read_text()
    raw = bytearray(base64.b64decode("".join(text.splitlines()[1:-1])))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    changed = base64.b64encode(raw).decode()
    with pytest.raises(MregError):
        signer(b"{}", f"-----BEGIN SSH SIGNATURE-----\n{changed}\n-----END SSH SIGNATURE-----\n")
    with pytest.raises(IntegrityError, match="does not belong"):
        signer(b"{} ", text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: base64.b64encode(b"SSHSIG" + b).decode()))
def test_what_is_no_signature_is_one_error(body):
    for text in (body, f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----"):
        with pytest.raises(MregError, match="signature"):
            signer(b"{}", text)


def test_a_key_with_a_passphrase_opens_and_nothing_of_it_is_told(manifest, tmp_path, mreg, monkeypatch):
    key = write_key(tmp_path / "locked", passphrase=SECRET)
    closed = mreg("sign", manifest, "--key", key)
    assert closed.exit_code == 1
    assert "MREG_SIGN_PASSPHRASE" in closed.stderr
    monkeypatch.setenv("MREG_SIGN_PASSPHRASE", "wrong")
    wrong = mreg("sign", manifest, "--key", key)
    assert (wrong.exit_code, "does not open" in wrong.stderr) == (1, True)
    monkeypatch.setenv("MREG_SIGN_PASSPHRASE", SECRET)
    opened = mreg("sign", manifest, "--key", key)
    assert opened.exit_code == 0
    everything = "".join(r.output for r in (closed, wrong, opened)) + manifest.with_name(SIGNATURE_NAME).read_text()
    assert SECRET not in everything
    private = "".join(key.read_text().splitlines()[1:-1])
    assert private[100:160] not in everything


def test_a_person_is_asked_for_the_passphrase(manifest, tmp_path):
    key = write_key(tmp_path / "locked", passphrase=SECRET)
    asked = []
    path = sign_file(manifest, key, ask=lambda question: asked.append(question) or SECRET)
    assert asked == [f"Passphrase of {key}"]
    assert signer(manifest.read_bytes(), path.read_text())


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no such key"), ("ssh-ed25519 AAAA me\n", "a public key cannot sign"), ("nonsense", "not a private key")],
)
def test_what_cannot_sign_is_one_error(manifest, tmp_path, mreg, content, word):
    key = tmp_path / "key"
    if content is not None:
        key.write_text(content)
    result = mreg("sign", manifest, "--key", key)
    assert result.exit_code == 1
    assert word in result.stderr
    assert not manifest.with_name(SIGNATURE_NAME).exists()


def test_keys_are_read_from_every_kind_of_list(key):
    line = key.with_name("ada.pub").read_text().strip()
    blob = read_keys(line)[0].blob
    lists = [f"# a comment\n{line}", f'ada@example.org namespaces="mreg-release" {line}', f"ssh-rsa AAAA x\n{line}\n"]
    for text in lists:
        assert [k.blob for k in read_keys(text)] == [blob]
    assert read_keys(f"# {line}") == []
    assert trusted_keys(line)[0].comment == "ada@example.org"
    with pytest.raises(MregError, match="a private key"):
        trusted_keys(str(key))


# --- releases --------------------------------------------------------------------------------------------------------


@pytest.fixture
def repo(packed_repo):
    """A repo with a run, and its package of TAG in dist."""
    return packed_repo


def asset_names(store):
    return sorted(a.name for a in store.releases(NAME)[0].assets)


def test_a_signed_release_has_the_signature_and_a_second_time_changes_nothing(registry, repo, key, mreg):
    command = ("release", repo.root, "--tag", TAG, "--sign", key, "--registry", registry.location)
    first = mreg(*command)
    assert first.exit_code == 0, first.stderr
    assert SIGNATURE_NAME in asset_names(registry)
    again = mreg(*command)
    assert again.exit_code == 0
    assert "nothing to do" in again.stderr
    without = mreg("release", repo.root, "--tag", TAG, "--registry", registry.location)
    assert without.exit_code == 0
    assert "PRIVATE" not in (repo.dist / TAG / SIGNATURE_NAME).read_text()


def test_a_signature_that_was_made_before_is_released(registry, repo, key, mreg):
    assert mreg("sign", repo.root, "--key", key).stdout.strip() == str(repo.dist / TAG / SIGNATURE_NAME)
    document = json.loads(mreg("sign", repo.root, "--key", key, "--json").stdout)
    assert document["signature"] == str(repo.dist / TAG / SIGNATURE_NAME)
    assert document["fingerprint"].startswith("SHA256:")
    assert mreg("release", repo.root, "--tag", TAG, "--registry", registry.location).exit_code == 0
    assert SIGNATURE_NAME in asset_names(registry)


def test_a_signature_of_other_bytes_is_not_released(registry, repo, key, mreg):
    (repo.dist / TAG / "other.json").write_text("{}")
    made = sign_file(repo.dist / TAG / "other.json", key, repo.dist / TAG)
    assert made.name == SIGNATURE_NAME
    result = mreg("release", repo.root, "--tag", TAG, "--registry", registry.location)
    assert result.exit_code == 0
    assert "not released" in result.stderr
    assert SIGNATURE_NAME not in asset_names(registry)


def test_a_dry_run_leaves_no_signature(registry, repo, key, mreg):
    before = sorted((repo.dist / TAG).iterdir())
    result = mreg("release", repo.root, "--tag", TAG, "--sign", key, "--dry-run", "--registry", registry.location)
    assert f"upload {SIGNATURE_NAME}" in result.stdout
    assert sorted((repo.dist / TAG).iterdir()) == before
