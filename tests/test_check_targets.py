"""`mreg check` of what is not on this machine: archives at an address, repositories without a clone, releases."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fixtures_release import TAG, add_repo, publish
from fixtures_stores import NAME, new_worktree

from registry import checks, partial, scaffold
from registry.checks import release
from registry.checks.release import Published
from registry.cli import group
from registry.errors import IntegrityError
from registry.stores import Asset, Release


def codes(report) -> list[str]:
    return sorted({finding.code for finding in report.findings})


def check(target: str, registry: str | None = None, **options):
    return checks.check(target, registry=registry, **options)


@pytest.fixture
def big_archive(tiny_package, tmp_path) -> Path:
    """The tiny archive with a second, big member: weights of 8 MB beside the model."""
    import zipfile

    path = tmp_path / f"{NAME}-{TAG}.zip"
    shutil.copyfile(tiny_package.archive, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = next(n for n in archive.namelist() if n.endswith("plans.json")).rpartition("/")[0]
        noise = np.random.default_rng(0).bytes(8_000_000)
        archive.writestr(f"{folder}/fold_0/checkpoint_best.pth", noise)
    return path


def asset(name: str, size: int = 10, sha256: str = "a" * 64, *, uploaded: bool = True) -> Asset:
    return Asset(id="1", name=name, size=size, sha256=sha256, url="", uploaded=uploaded)


def a_release(tag: str, *assets: Asset, notes: str = "") -> Release:
    return Release(id=tag, repo=NAME, tag=tag, title=tag, notes=notes, draft=False, assets=assets)


def told(subject: Published) -> dict[str, str]:
    return {finding.code: f"{finding.path}: {finding.message}" for finding in release.findings(subject)}


# --- archives at an address ------------------------------------------------------------------------------------------


def test_an_archive_at_an_address_is_read_in_parts(hub, github, big_archive, tmp_path) -> None:
    add_repo(github, tmp_path / "first")
    url = publish(github, TAG, big_archive).assets[0].url
    before = len(hub.requests)
    report = check(url)
    sent = sum(request.sent for request in hub.requests[before:])
    assert sent < 1_500_000 < big_archive.stat().st_size
    assert codes(report).count("REMOTE001") == 1
    note = next(finding for finding in report.findings if finding.code == "REMOTE001")
    assert "checkpoint_best.pth (8 MB)" in note.message
    local = checks.check(big_archive)
    mine = {(f.code, f.path) for f in report.findings if f.code != "REMOTE001"}
    assert mine == {(f.code, f.path) for f in local.findings if not f.path.endswith("checkpoint_best.pth")}
    everything = check(url, full=True)
    assert {(f.code, f.path) for f in everything.findings} == {(f.code, f.path) for f in local.findings}


def test_a_damaged_archive_at_an_address_is_one_clear_error(hub, github, tmp_path) -> None:
    add_repo(github, tmp_path / "first")
    bad = tmp_path / f"{NAME}-{TAG}.zip"
    bad.write_bytes(np.random.default_rng(0).bytes(3_000_000))
    url = publish(github, TAG, bad).assets[0].url
    done = CliRunner().invoke(group, ["check", url])
    assert done.exit_code == 1
    assert "not a zip archive" in done.output


@pytest.mark.parametrize("position", [0, 1_200_000, 4_999_999])
def test_ranges_are_read_where_they_are(position) -> None:
    data = np.random.default_rng(1).bytes(5_000_000)
    asked = []

    def read(first: int, last: int) -> bytes:
        asked.append((first, last))
        return data[first : last + 1]

    holes = partial._Holes(partial.Reader(read, len(data)), len(data))
    holes.seek(position)
    count = min(1000, len(data) - position)
    assert holes.read(count) == data[position : position + count]
    assert sum(last - first + 1 for first, last in asked) <= 2 * partial.TAIL


def test_a_server_that_sends_too_little_is_noticed(tmp_path) -> None:
    with pytest.raises(IntegrityError, match="other bytes than were asked for"):
        partial.copy(partial.Reader(lambda first, _: b"x" * (first % 7), 5_000_000), tmp_path / "a.zip", full=False)


# --- repositories without a clone ------------------------------------------------------------------------------------


@pytest.fixture
def repo(tmp_path) -> Path:
    """A working copy as `mreg new` writes it."""
    return scaffold.create(NAME, tmp_path / "work", recipe="nnunet", store=None).repo.root


def test_a_repository_is_checked_as_its_working_copy_is(hub, github, repo, tmp_path) -> None:
    (repo / "README.md").write_text((repo / "README.md").read_text() + "\nsct_deepseg -task old -i /home/ada/t2.nii\n")
    paths = [path for path in repo.rglob("*") if path.is_file() and ".git" not in path.relative_to(repo).parts]
    files = {path.relative_to(repo).as_posix(): path.read_bytes() for path in paths}
    folder = tmp_path / "first" / NAME
    folder.mkdir(parents=True)
    new_worktree(folder, files)
    github.create_repo(NAME, description="", topics=())
    github.push_first_commit(NAME, folder)
    before = len(hub.requests)
    there = check(f"{hub.org}/{NAME}")
    asked = len(hub.requests) - before
    local = checks.check(folder)
    assert {(f.code, f.path, f.line) for f in there.findings} == {(f.code, f.path, f.line) for f in local.findings}
    assert any(f.path == "README.md" for f in there.findings)
    assert asked <= 2 + len(files)
    assert check(f"{hub.org}/{NAME}@main").findings == there.findings
    assert check(NAME, f"github:{hub.org}").findings == there.findings


def test_a_repository_that_is_no_models_or_not_there_is_one_clear_error(github, hub, tmp_path) -> None:
    add_repo(github, tmp_path / "first")
    done = CliRunner().invoke(group, ["check", f"{hub.org}/{NAME}"])
    assert (done.exit_code, "has no model.toml" in done.output) == (1, True)
    done = CliRunner().invoke(group, ["check", f"{hub.org}/model_seg_none"])
    assert done.exit_code == 1
    assert "model_seg_none" in done.output
    done = CliRunner().invoke(group, ["check", f"{hub.org}/{NAME}@no-such-branch"])
    assert done.exit_code == 1


# --- published releases ----------------------------------------------------------------------------------------------


def test_a_published_release_is_checked_with_its_archive(registry, tiny_package) -> None:
    publish(registry, TAG, *tiny_package)
    report = check(f"{NAME}@{TAG}", registry.location)
    assert not [finding for finding in report.findings if finding.code.startswith("RELEASE")], report.findings
    local = {
        (f.code, f"{tiny_package.archive.name}/{f.path}".rstrip("/"))
        for f in checks.check(tiny_package.archive).findings
    }
    assert {(f.code, f.path) for f in report.findings} - {("REMOTE001", tiny_package.archive.name)} <= local


def test_an_asset_that_was_replaced_is_an_error(registry, tiny_package, tmp_path) -> None:
    other = tmp_path / tiny_package.archive.name
    data = bytearray(tiny_package.archive.read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    publish(registry, TAG, other, tiny_package.manifest)
    report = check(f"{NAME}@{TAG}", registry.location)
    found = next(finding for finding in report.findings if finding.code == "RELEASE003")
    assert found.path == other.name
    assert "it was replaced" in found.message
    assert not report.ok


def test_a_release_without_a_manifest_is_told(registry, tiny_package) -> None:
    publish(registry, TAG, tiny_package.archive)
    assert "RELEASE004" in codes(check(f"{NAME}@{TAG}", registry.location))


def test_a_tag_against_the_policy_is_an_error() -> None:
    assert (
        "no version"
        in told(Published(asked=NAME, release=a_release("r20240915"), others=(), policy="semver"))["RELEASE001"]
    )
    assert "RELEASE001" in told(Published(asked=NAME, release=a_release("r20240931"), others=()))
    assert "RELEASE001" not in told(Published(asked=NAME, release=a_release("v2.0"), others=(), policy="semver"))


def test_names_that_say_the_wrong_thing_are_told() -> None:
    """RELEASE002, RELEASE005, RELEASE006 and RELEASE007 on what ivadomed's repositories really did."""
    off = Published(asked=NAME, release=a_release("r20241031", asset("model-canal-seg_r20241030.zip")), others=())
    assert "it names 20241030" in told(off)["RELEASE002"]
    others = (
        a_release("r20250909", asset("model_fold0.zip")),
        a_release("r20250901", asset("other.zip", sha256="b" * 64)),
    )
    again = Published(
        asked=NAME, release=a_release("r20260528", asset("model_fold0.zip", sha256="b" * 64)), others=others
    )
    found = told(again)
    assert "r20250901" in found["RELEASE005"]
    assert "r20250909" in found["RELEASE006"]
    twice = Published(asked=NAME, release=a_release("r20210401_v2"), others=(a_release("r20210401"),))
    assert "of one day" in told(twice)["RELEASE007"]


def test_limits_of_github_are_known() -> None:
    """RELEASE008 and RELEASE011."""
    large = a_release("r20240915", asset("a-r20240915.zip", size=1 << 31), asset("b.txt", uploaded=False))
    found = told(Published(asked=NAME, release=large, others=()))
    assert str(1 << 31) in found["RELEASE008"]
    assert found["RELEASE011"].startswith("b.txt")
    many = a_release("r20240915", *(asset(f"{n}.txt") for n in range(1001)))
    assert "1001 assets" in told(Published(asked=NAME, release=many, others=()))["RELEASE008"]


def test_a_withdrawn_release_says_so(registry, tiny_package, mreg) -> None:
    publish(registry, TAG, *tiny_package)
    mreg("yank", f"{NAME}@{TAG}", "--reason", "left and right are exchanged", "--registry", registry.location)
    report = check(f"{NAME}@{TAG}", registry.location)
    found = next(finding for finding in report.findings if finding.code == "RELEASE009")
    assert "left and right are exchanged" in found.message


def test_a_repository_that_was_renamed_is_told() -> None:
    subject = Published(asked="ms-lesion-agnostic", release=a_release("r20250909"), others=())
    assert "RELEASE010" not in told(subject)
    assert "is called seg-sc-ms" in told(replace(subject, repo="seg-sc-ms"))["RELEASE010"]


# --- forms of the answer ---------------------------------------------------------------------------------------------


@pytest.fixture
def bad_repo(repo: Path, monkeypatch) -> Path:
    """A working copy with an error at a line, as the current folder."""
    document = json.loads((repo / "dataset.json").read_text()) if (repo / "dataset.json").exists() else {}
    document |= {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "sc": 1}, "file_ending": ".nii.gz"}
    (repo / "dataset.json").write_text(json.dumps(document | {"image_orientation": "rpi"}, indent=2))
    monkeypatch.chdir(repo)
    return repo


def test_annotations_name_file_line_and_code(bad_repo, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = CliRunner().invoke(group, ["check", ".", "--format", "github"])
    assert done.exit_code == 1
    line = next(line for line in done.stdout.splitlines() if "rpi" in line)
    assert line.startswith("::error file=dataset.json,line=")
    assert "title=mreg ORIENT" in line or "title=mreg SCHEMA" in line
    assert all(text.startswith(("::error ", "::warning ", "::notice ")) for text in done.stdout.splitlines())
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("### mreg check .: ")
    assert "| error |" in text


def test_what_stands_in_a_message_cannot_end_an_annotation_or_a_cell() -> None:
    from registry import annotations
    from registry.findings import Finding, Report

    report = Report(target=".", findings=(Finding(code="A1", message="a\n::set-env b|<b>", path="x,y:z%"),))
    (line,) = annotations.lines(report)
    assert line == "::error file=x%2Cy%3Az%25,title=mreg A1::a%0A::set-env b|<b>"
    assert "\\|&lt;b&gt;" in annotations.summary(report)


def test_sarif_is_valid_and_knows_every_rule(bad_repo) -> None:
    done = CliRunner().invoke(group, ["check", "--format", "sarif"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    run = document["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [kind.code for kind in checks.every_kind()]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    found = next(r for r in run["results"] if "rpi" in r["message"]["text"])
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "dataset.json"
    assert place["region"]["startLine"] > 1
    from sarif_pydantic import Sarif

    Sarif.model_validate(document)


def test_an_unknown_combination_is_a_usage_error() -> None:
    assert CliRunner().invoke(group, ["check", "--format", "markdown"]).exit_code == 2
    assert CliRunner().invoke(group, ["check", "--image", __file__]).exit_code == 2
