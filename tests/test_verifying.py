"""mreg verify: what is proven, what is wrong, and what nobody here can say."""

import base64
import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME
from test_signing import write_key

from registry import notes
from registry.attestation import subjects
from registry.files import sha256
from registry.model_toml import find_repo
from registry.signing import SIGNATURE_NAME, sign_file


def states(result):
    return [(check["what"], check["state"]) for check in json.loads(result.stdout)["checks"]]


def messages(result, what):
    return [check["message"] for check in json.loads(result.stdout)["checks"] if check["what"] == what]


@pytest.fixture
def package(tiny_package, tmp_path):
    """A copy of the package, for this test alone."""
    folder = tmp_path / "package"
    folder.mkdir()
    for file in tiny_package:
        shutil.copy(file, folder)
    return folder


def write_bundle(folder, archive, digest=None):
    """A bundle as GitHub's attest action writes it, without anybody's true signature."""
    subject = {"name": archive.name, "digest": {"sha256": digest or sha256(archive)}}
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicate": {}}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    envelope = {"payload": payload, "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": "AA=="}]}
    document = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    path = folder / f"{archive.name}.sigstore.json"
    path.write_text(json.dumps(document) + "\n")
    return path


@pytest.fixture
def no_gh(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "sigstore", None)
    monkeypatch.setitem(sys.modules, "sigstore.errors", None)


def gh(monkeypatch, tmp_path, *, status, says):
    """Put a gh on the path that answers and writes down how it was called."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho "{says}" >&2\nexit {status}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "sigstore.errors", None)


# --- releases --------------------------------------------------------------------------------------------------------


def test_a_good_release_is_proven_as_far_as_it_goes(released, mreg, tiny_package):
    result = mreg("verify", NAME, "--registry", released.location, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["target"], document["ok"], document["verified"]) == (f"{NAME}@{TAG}", True, False)
    assert states(result) == [("manifest", "ok"), ("digest", "ok"), ("provenance", "unverified")]
    assert sha256(tiny_package.archive) in messages(result, "digest")[0]
    text = mreg("verify", NAME, "--registry", released.location).stdout
    assert text.endswith(f"{NAME}@{TAG}: nothing is wrong, 1 not verified\n")
    assert "not verified" in text.splitlines()[2]


def test_changed_bytes_are_found(released, mreg, request):
    if released.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        (release,) = hub.repo(NAME)["releases"].values()
        archive = next(a for a in release["assets"].values() if a["name"].endswith(".zip"))
        path = hub.asset_path(archive["id"])
    else:
        (path,) = released.root.rglob("*.zip")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = mreg("verify", NAME, "--registry", released.location, "--json")
    assert result.exit_code == 1
    assert ("digest", "failed") in states(result)
    assert "do not use it" in mreg("verify", NAME, "--registry", released.location).stdout


def test_a_manifest_that_names_other_bytes_is_found(registry, package, mreg):
    manifest = package / "mreg-release.json"
    (archive,) = package.glob("*.zip")
    manifest.write_text(manifest.read_text().replace(sha256(archive), "ab" * 32))
    publish(registry, TAG, *package.iterdir())
    result = mreg("verify", NAME, "--registry", registry.location, "--json")
    assert result.exit_code == 1
    assert ("digest", "failed") in states(result)


@pytest.mark.parametrize("break_", ["tag", "json", "missing"])
def test_a_broken_manifest_is_told(registry, package, mreg, break_):
    manifest = package / "mreg-release.json"
    text = manifest.read_text()
    manifest.write_text(text.replace(TAG, "r20200101") if break_ == "tag" else "{")
    if break_ == "missing":
        manifest.unlink()
    publish(registry, TAG, *package.iterdir())
    result = mreg("verify", NAME, "--registry", registry.location, "--json")
    assert states(result)[0] == ("manifest", "unverified" if break_ == "missing" else "failed")
    assert result.exit_code == (0 if break_ == "missing" else 1)


def test_an_archive_that_nobody_named_and_other_checksums_are_found(registry, package, mreg):
    (archive,) = package.glob("*.zip")
    shutil.copy(archive, package / "more.zip")
    (package / "SHA256SUMS").write_text(f"{'ab' * 32}  {archive.name}\n")
    publish(registry, TAG, *sorted(package.iterdir()))
    result = mreg("verify", NAME, "--registry", registry.location, "--json")
    assert result.exit_code == 1
    assert messages(result, "checksums") == [f"SHA256SUMS says something else of {archive.name}"]
    assert "more.zip: an archive that the manifest does not name" in messages(result, "digest")


def test_a_yanked_release_says_so(released, mreg):
    mreg("yank", f"{NAME}@{TAG}", "--reason", "wrong labels", "--registry", released.location)
    result = mreg("verify", f"{NAME}@{TAG}", "--registry", released.location, "--json")
    assert messages(result, "withdrawn") == ["yanked, should not be used: wrong labels"]
    assert result.exit_code == 0
    assert notes.block_of(released.releases(NAME)[0]).yanked


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_compared_with_the_manifest_beside_it(package, mreg):
    (archive,) = package.glob("*.zip")
    for target in (archive, package, package / "mreg-release.json"):
        result = mreg("verify", target, "--json")
        assert (result.exit_code, states(result)[:2]) == (0, [("manifest", "ok"), ("digest", "ok")])
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    assert mreg("verify", archive).exit_code == 1
    (package / "mreg-release.json").unlink()
    archive.write_bytes(archive.read_bytes()[:1000])
    assert ("digest", "failed") in states(mreg("verify", archive, "--json"))


def test_a_file_alone_proves_nothing_and_that_is_said(tiny_package, mreg, tmp_path):
    archive = shutil.copy(tiny_package.archive, tmp_path)
    result = mreg("verify", archive, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verified"] is False
    assert {state for _, state in states(result)} == {"unverified"}
    assert "nobody here says what it should be" in messages(result, "digest")[0]


def test_what_cannot_be_verified_at_all_is_one_error(mreg, tmp_path):
    assert "no mreg-release.json" in mreg("verify", tmp_path).stderr
    result = mreg("verify", "https://example.org/a.zip")
    assert (result.exit_code, "an address proves nothing" in result.stderr) == (1, True)


# --- provenance ------------------------------------------------------------------------------------------------------


def test_without_gh_and_sigstore_a_bundle_is_not_believed(package, mreg, no_gh):
    (archive,) = package.glob("*.zip")
    write_bundle(package, archive)
    result = mreg("verify", archive, "--json", "--repo", f"ivadomed/{NAME}")
    assert result.exit_code == 0
    assert ("provenance", "unverified") in states(result)
    assert "neither gh (2.49 or newer) nor the library sigstore" in messages(result, "provenance")[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"dsseEnvelope": {"payload": "e30="}}', ""])
def test_a_bundle_that_cannot_be_read_is_wrong(package, mreg, content):
    (archive,) = package.glob("*.zip")
    write_bundle(package, archive).write_text(content)
    result = mreg("verify", archive, "--json")
    assert result.exit_code == 1
    assert ("provenance", "failed") in states(result)


def test_a_bundle_of_other_bytes_is_wrong(package, mreg):
    (archive,) = package.glob("*.zip")
    write_bundle(package, archive, "ab" * 32)
    result = mreg("verify", archive, "--json", "--repo", f"ivadomed/{NAME}")
    assert messages(result, "provenance") == [f"{archive.name}: the bundle speaks of other bytes"]
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("status", "says", "state", "code"),
    [
        (0, "verified", "ok", 0),
        (1, "Error: verifying with issuer failed", "failed", 1),
        (1, "dial tcp: lookup tuf-repo.github.com: no such host", "unverified", 0),
        (1, "unknown command attestation for gh", "unverified", 0),
    ],
)
def test_gh_has_the_word(
    released_github, tiny_package, package, mreg, monkeypatch, tmp_path, status, says, state, code
):
    bundle = write_bundle(package, tiny_package.archive)
    add_repo(released_github, tmp_path / "other", "model_seg_sc_t1")
    text = (package / "mreg-release.json").read_text()
    (package / "mreg-release.json").write_text(text.replace(f'"{NAME}"', '"model_seg_sc_t1"'))
    publish(released_github, TAG, *package.iterdir(), name="model_seg_sc_t1")
    assert bundle.is_file()
    gh(monkeypatch, tmp_path, status=status, says=says)
    result = mreg("verify", f"model_seg_sc_t1@{TAG}", "--json", "--registry", "github:ivadomed")
    assert ("provenance", state) in states(result)
    assert result.exit_code == code
    first = (tmp_path / "calls").read_text().splitlines()[0]
    assert first.startswith("attestation verify ")
    assert "--repo ivadomed/model_seg_sc_t1" in first
    assert "--bundle" in first


def test_several_bundles_in_lines_are_read(package):
    (archive,) = package.glob("*.zip")
    path = write_bundle(package, archive)
    assert subjects(path.read_text() * 2) == {sha256(archive)}


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(package, tmp_path):
    """The package with a signature, and the public key."""
    key = write_key(tmp_path / "ada")
    sign_file(package / "mreg-release.json", key)
    return package, f"{key}.pub"


def test_a_signature_is_believed_where_the_key_is_trusted(signed, mreg, tmp_path):
    package, public = signed
    stranger = write_key(tmp_path / "eve")
    for key, state, code in ((public, "ok", 0), (f"{stranger}.pub", "failed", 1)):
        result = mreg("verify", package, "--key", key, "--json")
        assert (("signature", state) in states(result), result.exit_code) == (True, code)
    result = mreg("verify", package, "--json")
    assert ("signature", "unverified") in states(result)
    assert "a key proves nothing by itself" in messages(result, "signature")[0]


def test_a_manifest_that_changed_after_it_was_signed_is_wrong(signed, mreg):
    package, public = signed
    manifest = package / "mreg-release.json"
    manifest.write_text(manifest.read_text() + "\n")
    result = mreg("verify", package, "--key", public, "--json")
    assert (("signature", "failed") in states(result), result.exit_code) == (True, 1)


def test_a_signature_that_was_taken_away_is_missed(signed, mreg):
    package, public = signed
    (package / SIGNATURE_NAME).unlink()
    result = mreg("verify", package, "--key", public, "--json")
    assert (("signature", "failed") in states(result), result.exit_code) == (True, 1)


def test_the_working_copy_says_who_signs(signed, repo_with_run, mreg, monkeypatch):
    package, public = signed
    toml = repo_with_run / "model.toml"
    line = Path(public).read_text().strip()
    toml.write_text(f'{toml.read_text()}\n[release]\nsigners = ["{line}"]\n')
    assert find_repo(repo_with_run).toml.release.signers == (line,)
    monkeypatch.chdir(repo_with_run)
    result = mreg("verify", package, "--json")
    assert ("signature", "ok") in states(result)
    assert "model.toml of this working copy" in messages(result, "signature")[0]


def test_the_repository_says_who_signs_and_the_release_does_not(store, signed, mreg, tmp_path):
    from fixtures_stores import new_worktree

    package, public = signed
    line = Path(public).read_text().strip()
    folder = tmp_path / "tree"
    folder.mkdir()
    new_worktree(folder, {"model.toml": f'[release]\nsigners = ["{line}"]\n'.encode()})
    store.create_repo(NAME, description="x", topics=())
    store.push_first_commit(NAME, folder)
    publish(store, TAG, *package.iterdir())
    result = mreg("verify", NAME, "--registry", store.location, "--json")
    assert ("signature", "ok") in states(result)
    assert "model.toml of the repository" in messages(result, "signature")[0]
