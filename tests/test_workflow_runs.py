"""The workflows as they stand, run by act against the loopback GitHub: checked, attested, published, or stopped."""

import functools
import json
import shutil
import time
import zipfile

import pytest
import yaml
from act import Act, runner
from command import run_mreg
from fixtures_dataset import MODEL_TOML, write_dataset
from fixtures_release import TAG
from fixtures_run import DATASET_JSON
from fixtures_stores import NAME, git

from registry import actions, attestation, scaffold
from registry.errors import MregError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME

pytestmark = pytest.mark.long
TRAINED = "model_seg_gm-wm_t1"


@pytest.fixture
def act(tmp_path, hub, hub_token):
    """act, with jobs that talk to the hub."""
    made = Act(tmp_path / "act", GITHUB_API_URL=hub.url, HUB_TOKEN=hub_token)
    hub.runs = []  # what came of them
    hub.runner = lambda *run: hub.runs.append(runner(made, *run))
    return made


def test_a_good_repo_passes_and_a_bad_one_has_annotations(act, tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None).repo.root
    good = act.run(root, "pull_request", "check.yml")
    assert good.ok, good.log
    assert good.jobs["check"].errors == []
    assert good.summary
    document = {**DATASET_JSON, "image_orientation": "rpi"}
    (root / "dataset.json").write_text(json.dumps(document, indent=1))
    git(root, "add", "--all")
    bad = act.run(root, "pull_request", "check.yml")
    assert not bad.ok
    assert bad.jobs["check"].failed == "Check"
    line = document_line(root / "dataset.json", '"image_orientation"')
    (found,) = [entry for entry in bad.jobs["check"].errors if "ORIENT002" in entry["title"]]
    assert (found["file"], found["line"]) == ("dataset.json", str(line))
    assert "ORIENT002" in bad.summary


def document_line(path, text):
    return next(n for n, line in enumerate(path.read_text().splitlines(), start=1) if text in line)


def test_the_findings_are_kept_as_sarif_where_that_is_asked_for(act, tmp_path):
    root = scaffold.create(NAME, tmp_path, store=None).repo.root
    caller = root / ".github/workflows/check.yml"
    document = yaml.safe_load(caller.read_text())
    document["jobs"]["check"]["with"]["sarif"] = True
    caller.write_text(yaml.safe_dump({"on" if key is True else key: value for key, value in document.items()}))
    git(root, "add", "--all")
    done = act.run(root, "pull_request", "check.yml")
    assert done.ok, done.log
    assert json.loads((act.work / "artifacts/mreg-sarif/mreg.sarif").read_text())["version"] == "2.1.0"


def test_from_a_new_repository_to_a_fetched_archive(act, hub, hub_token, tmp_path):
    environment = {"GITHUB_API_URL": hub.url, "GITHUB_TOKEN": hub_token, "MREG_REGISTRY": "github:ivadomed"}
    call = functools.partial(run_mreg, **environment)
    assert call("new", TRAINED, cwd=tmp_path).returncode == 0
    root = tmp_path / TRAINED
    write_dataset(root / "data" / "raw")
    settings = MODEL_TOML[MODEL_TOML.index("configuration") :]
    text = (root / "model.toml").read_text().replace("[train]\n", f"[train]\n{settings}", 1)
    (root / "model.toml").write_text(text)
    trained = call("train", cwd=root)
    assert trained.returncode == 0, trained.stderr
    shutil.copy(next((root / "runs").glob("*/dataset.json")), root / "dataset.json")
    done = call("release", "--tag", TAG, "--publish-with", "actions", "--json", cwd=root)
    assert done.returncode == 0, done.stderr + (hub.runs[0].log if hub.runs else "")
    (run,) = hub.runs
    jobs = ("download", "check", "attest", "publish")
    assert [run.jobs[name].result for name in jobs] == ["success"] * len(jobs)
    assert json.loads(done.stdout)["published"]
    archive = f"{TRAINED}-{TAG}.zip"
    assert archive in run.summary
    fetched = call("fetch", TRAINED, "-o", "fetched", cwd=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    (release,) = hub.repo(TRAINED)["releases"].values()
    digests = {asset["name"]: asset["digest"] for asset in release["assets"].values()}
    assert digests[archive] == f"sha256:{sha256(tmp_path / 'fetched' / archive)}"
    assert archive + attestation.SUFFIX in digests
    assert len(hub.repo(TRAINED)["attestations"]) == 1
    verified = call("verify", f"{TRAINED}@{TAG}", "--json", cwd=tmp_path)
    (provenance,) = [c for c in json.loads(verified.stdout)["checks"] if c["what"] == "provenance"]
    assert provenance["state"] != "ok", "nobody has signed the bundle of the stub"
    assert hub_token not in done.stderr + done.stdout + run.log


def test_an_archive_that_the_check_refuses_is_not_published(act, hub, github, tiny_package, tmp_path, capsys):
    scaffold.create(NAME, tmp_path, store=github)
    draft = github.create_draft(NAME, TAG, title=TAG, notes="")
    for path in broken_package(tiny_package, tmp_path / "broken"):
        github.upload(draft, path)
    object.__setattr__(github._api.pace, "sleep", lambda _: time.sleep(0.2))  # the run takes real time
    with pytest.raises(MregError, match="did not publish") as caught:
        actions.publish_by_actions(github, draft, "main")
    (run,) = hub.runs
    assert run.jobs["check"].failed == "Check every archive, and run it", run.log
    codes = {entry.get("title", "") for entry in run.jobs["check"].errors}
    assert "image_orientation" in caught.value.message
    assert any(codes)
    assert "ORIENT001" in run.summary
    assert not {"attest", "publish"} & {job.name for job in run.jobs.values() if job.result == "success"}
    (found,) = github.releases(NAME)
    assert found.draft
    assert not any(asset.name.endswith(attestation.SUFFIX) for asset in found.assets)


def broken_package(package, folder):
    """Write the package without the key that SCT needs most."""
    folder.mkdir()
    archive, manifest = folder / package.archive.name, folder / MANIFEST_NAME
    with zipfile.ZipFile(package.archive) as old, zipfile.ZipFile(archive, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("dataset.json"):
                document = json.loads(data)
                del document["image_orientation"]
                data = json.dumps(document).encode()
            new.writestr(name, data)
    document = json.loads(package.manifest.read_text())
    document["assets"][0].update(size=archive.stat().st_size, sha256=sha256(archive))
    manifest.write_text(json.dumps(document))
    return archive, manifest
