"""Publishing with Actions: the workflow is started once, waited for, and its refusal is told; the draft stays."""

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from fakehub.actions import add_job, add_run, progress
from fixtures_release import TAG
from fixtures_stores import NAME

from registry import attestation, drafts, scaffold
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.model_toml import find_repo
from registry.releases import release
from registry.stores.github import GitHubStore

ARCHIVE = f"{NAME}-{TAG}.zip"


@pytest.fixture
def repo(tiny_run, tiny_package, github, tmp_path):
    """A model's repo as `mreg new` makes it, in the registry too, with a finished run and its package."""
    made = scaffold.create(NAME, tmp_path / "work", store=github).repo
    shutil.copytree(tiny_run.parents[1] / "runs", made.root / "runs")
    shutil.copytree(tiny_package.archive.parent, made.root / "dist" / TAG)
    (made.root / "dataset.json").write_bytes((tiny_run / "dataset.json").read_bytes())
    return find_repo(made.root)


@pytest.fixture
def workflow(hub, github):
    """A workflow that does what the real one does, without machines; `script` may say otherwise."""

    class Workflow:
        finding = ""  # what stops it
        store = github

        def __call__(self, hub, repo, run):
            progress(hub, run, "in_progress")
            tag = run["inputs"]["tag"]
            if self.finding:
                notes = (
                    ("LAYOUT001", self.finding, "draft/a.zip", 1),
                    ("", "Process completed with exit code 1.", "", 1),
                )
                add_job(hub, run, "download", "success")
                add_job(hub, run, "release / check", "failure", "Check every archive, and run it", notes)
                progress(hub, run, "completed", "failure")
                return
            sums = {a["name"]: a["digest"][7:] for r in repo["releases"].values() for a in r["assets"].values()}
            drafts.publish(f"{NAME}@{tag}", self.store, "\n".join(f"{digest}  {name}" for name, digest in sums.items()))
            progress(hub, run, "completed", "success")

    hub.runner = Workflow()
    return hub.runner


def dispatches(hub):
    return hub.count("POST", "/dispatches$")


def test_the_workflow_is_started_on_the_draft_and_publishes_it(github, hub, repo, workflow, capsys):
    outcome = release(repo, github, tag=TAG, by="auto")
    assert outcome.published
    assert dispatches(hub) == 1
    asked = next(r.body for r in hub.requests if r.path.endswith("/dispatches"))
    assert asked == {"ref": "main", "inputs": {"tag": TAG}, "return_run_details": True}
    (found,) = github.releases(NAME)
    assert not found.draft
    assert hub.count("PATCH", "/releases/") == 1  # the workflow's own
    assert f"https://github.com/ivadomed/{NAME}/actions/runs/" in capsys.readouterr().err


def test_a_server_that_does_not_tell_the_run_is_asked_for_the_list(github, hub, repo, workflow):
    hub.run_details = False
    assert release(repo, github, tag=TAG, by="actions").published
    assert [r.status for r in hub.requests if r.path.endswith("/dispatches")] == [422, 204]


def test_a_start_whose_answer_is_lost_is_not_repeated(github, hub, repo, workflow):
    hub.fault("POST", "/dispatches$", "lost")
    assert release(repo, github, tag=TAG, by="actions").published
    assert dispatches(hub) == 1


def test_a_start_that_is_limited_is_sent_again(github, hub, repo, workflow):
    hub.fault("POST", "/dispatches$", "limit", times=2, retry_after=7)
    assert release(repo, github, tag=TAG, by="actions").published
    assert hub.sleeps.count(7.0) == 2


def test_the_finding_that_stops_the_workflow_is_told_and_the_draft_stays(github, hub, repo, workflow, capsys):
    workflow.finding = "plans.json is missing"
    with pytest.raises(MregError) as caught:
        release(repo, github, tag=TAG, by="auto")
    assert "LAYOUT001: plans.json is missing" in caught.value.message
    assert "release / check" in caught.value.message
    assert "exit code 1" not in caught.value.message + capsys.readouterr().err
    assert "/actions/runs/" in caught.value.hint
    assert "draft stays" in caught.value.hint
    (draft,) = github.releases(NAME)
    assert draft.draft
    uploads = hub.count("POST", r"/assets\?")
    workflow.finding = ""
    assert release(repo, github, tag=TAG, by="auto").published
    assert hub.count("POST", r"/assets\?") == uploads  # nothing is sent again


def test_a_job_without_annotations_is_told_by_its_step(github, hub, repo):
    def script(hub, repo, run):
        add_job(hub, run, "publish", "failure", "Install mreg")
        progress(hub, run, "completed", "failure")

    hub.runner = script
    with pytest.raises(MregError, match="job 'publish', step 'Install mreg'"):
        release(repo, github, tag=TAG, by="auto")


def test_annotations_that_the_token_may_not_read_do_not_hide_the_step(github, hub, repo, workflow):
    workflow.finding = "plans.json is missing"
    hub.fault("GET", "/annotations", "status", status=403, times=9, message="Resource not accessible")
    with pytest.raises(MregError, match="Check every archive, and run it"):
        release(repo, github, tag=TAG, by="auto")


def test_a_cancelled_run_is_told(github, hub, repo):
    hub.runner = lambda hub, repo, run: progress(hub, run, "completed", "cancelled")
    with pytest.raises(MregError, match=f"did not publish {TAG}: cancelled"):
        release(repo, github, tag=TAG, by="auto")


def test_a_run_that_goes_on_already_is_waited_for_and_not_started_again(
    github, hub, repo, workflow, monkeypatch, capsys
):
    release(repo, github, tag=TAG, draft=True)
    hub.requests.clear()
    record = hub.repo(NAME)
    run = add_run(hub, record, "release.yml", {"tag": TAG})
    add_run(hub, record, "release.yml", {"tag": "r20200101"})  # somebody else's
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            workflow(hub, record, run)

    object.__setattr__(github._api.pace, "sleep", sleep)
    outcome = release(repo, github, tag=TAG, by="auto")
    assert outcome.published
    assert not outcome.changed
    assert dispatches(hub) == 0
    assert looks == sorted(looks)  # it looks less and less often
    assert any(r.status == 304 for r in hub.requests if f"/actions/runs/{run['id']}" in r.path)
    assert "working on r20260131 already" in capsys.readouterr().err


def test_killed_while_it_waits_it_finds_its_run_again(github, hub, repo, workflow):
    started = threading.Event()

    def script(hub, repo, run):
        progress(hub, run, "in_progress")
        started.set()

    hub.runner = script

    class Killed(BaseException):
        pass

    def killed(_):
        raise Killed

    calm = github._api.pace.sleep
    object.__setattr__(github._api.pace, "sleep", killed)
    with pytest.raises(Killed):
        release(repo, github, tag=TAG, by="auto")
    assert started.wait(5)
    (run,) = hub.repo(NAME)["runs"].values()
    object.__setattr__(github._api.pace, "sleep", lambda s: (calm(s), workflow(hub, hub.repo(NAME), run)))
    assert release(repo, github, tag=TAG, by="auto").published
    assert dispatches(hub) == 1


def test_a_token_that_may_not_start_it_publishes_directly_and_says_why(github, hub, repo, workflow, capsys):
    hub.add_token(hub.token, can=("contents",))
    assert release(repo, github, tag=TAG, by="auto").published
    said = capsys.readouterr().err
    assert "publishing r20260131 from this machine" in said
    assert "actions=write" in said
    assert hub.repo(NAME).get("runs", {}) == {}


def test_asked_for_it_does_not_publish_directly(github, hub, repo, workflow):
    hub.add_token(hub.token, can=("contents",))
    with pytest.raises(MregError, match="cannot publish r20260131 with Actions") as caught:
        release(repo, github, tag=TAG, by="actions")
    assert "--publish-with direct" in caught.value.hint
    assert [r.draft for r in github.releases(NAME)] == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "has no .github/workflows/release.yml"), ("on: workflow_dispatch\n", "does not call mreg's model-release")],
)
def test_without_our_workflow_it_publishes_directly_and_says_so(github, hub, repo, capsys, text, reason):
    record = hub.repo(NAME)
    data, who = hub.git(record), {"name": "Ada", "email": "a@example.org", "date": "2026-02-01T12:00:00Z"}
    head = hub.head(NAME)[0]
    files = data.files(data.commit(head["sha"])["tree"])
    del files[".github/workflows/release.yml"]
    if text:
        files[".github/workflows/release.yml"] = ("100644", data.write("blob", text.encode()))
    data.set_ref("refs/heads/main", data.write_commit(data.write_tree(files), [head["sha"]], "Other\n", who, who))
    assert release(repo, github, tag=TAG, by="auto").published
    assert reason in capsys.readouterr().err
    assert dispatches(hub) == 0


def test_the_command_publishes_with_actions_by_default(github, hub, repo, workflow, mreg):
    result = mreg("release", repo.root, "--tag", TAG, "--json", "--registry", github.location)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["published"]
    assert dispatches(hub) == 1


# --- what the workflow runs --------------------------------------------------------------------------------------


@pytest.fixture
def draft(registry, tiny_package):
    """A complete draft in each kind of registry."""
    made = registry.create_draft(NAME, TAG, title=TAG, notes="")
    for path in tiny_package:
        registry.upload(made, path)
    return made


def bundle(path: Path, *digests: str) -> Path:
    import base64

    statement = {"subject": [{"name": "x", "digest": {"sha256": digest}} for digest in digests]}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps({"dsseEnvelope": {"payload": payload}}))
    return path


def test_a_draft_is_fetched_and_published_with_its_attestation(registry, draft, tiny_package, mreg, tmp_path):
    out, outputs, summary = tmp_path / "draft", tmp_path / "outputs", tmp_path / "summary"
    where = ["--registry", registry.location]
    fetched = mreg("draft", "fetch", f"{NAME}@{TAG}", "-o", out, "--github-output", outputs, *where)
    assert fetched.exit_code == 0, fetched.stderr
    assert (out / ARCHIVE).read_bytes() == tiny_package.archive.read_bytes()
    (tmp_path / "sums").write_text(fetched.stdout)
    done = subprocess.run(["sha256sum", "--check", "--strict", tmp_path / "sums"], cwd=out, check=False)
    assert done.returncode == 0
    assert "previous<<END_OF_previous\n\nEND_OF_previous\n" in outputs.read_text()
    digest = next(line.split()[0] for line in fetched.stdout.splitlines() if line.endswith(ARCHIVE))
    proof = bundle(tmp_path / "proof.json", digest)
    words = ["--checksums", tmp_path / "sums", "--provenance", proof, "--summary", summary, *where]
    for _ in range(2):  # the second time there is nothing to do
        published = mreg("draft", "publish", f"{NAME}@{TAG}", *words)
        assert published.exit_code == 0, published.stderr
    (found,) = registry.releases(NAME)
    assert not found.draft
    assert found.asset(ARCHIVE + attestation.SUFFIX).size == proof.stat().st_size
    assert digest in summary.read_text()


def test_a_draft_that_changed_after_the_check_is_not_published(registry, draft, tmp_path):
    fetched = drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")
    (tmp_path / "extra.png").write_bytes(b"figure")
    registry.upload(draft, tmp_path / "extra.png")
    with pytest.raises(ConflictError, match=r"extra\.png is not what was checked"):
        drafts.publish(f"{NAME}@{TAG}", registry, fetched.checksums)
    assert registry.releases(NAME)[0].draft


def test_an_attestation_of_other_bytes_is_not_attached(registry, draft, tmp_path):
    fetched = drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")
    with pytest.raises(IntegrityError, match="does not attest"):
        drafts.publish(f"{NAME}@{TAG}", registry, fetched.checksums, bundle(tmp_path / "proof.json", "0" * 64))
    assert registry.releases(NAME)[0].draft


def test_the_attestation_of_an_earlier_try_is_replaced(registry, draft, tmp_path):
    old = tmp_path / (ARCHIVE + attestation.SUFFIX)
    old.write_text("{}")
    registry.upload(draft, old)
    fetched = drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")
    assert old.name not in fetched.checksums
    digest = next(asset.sha256 for asset in fetched.assets if asset.name == ARCHIVE)
    proof = bundle(tmp_path / "proof.json", digest)
    made = drafts.publish(f"{NAME}@{TAG}", registry, fetched.checksums, proof)
    assert made.asset(old.name).size == proof.stat().st_size


def test_a_draft_without_its_archive_or_with_another_is_refused(registry, draft, tmp_path):
    archive = next(a for a in registry.releases(NAME)[0].assets if a.name == ARCHIVE)
    registry.delete_asset(draft, archive)
    with pytest.raises(IntegrityError, match="missing"):
        drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")
    (tmp_path / ARCHIVE).write_bytes(b"other")
    registry.upload(draft, tmp_path / ARCHIVE)
    with pytest.raises(IntegrityError, match="other bytes than the manifest says"):
        drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")


def test_there_must_be_such_a_draft(registry, draft, tmp_path):
    with pytest.raises(NotFoundError, match="no draft"):
        drafts.fetch(f"{NAME}@r20260101", registry, tmp_path / "draft")
    with pytest.raises(MregError, match="names no draft"):
        drafts.fetch(NAME, registry, tmp_path / "draft")
    registry.publish(draft, latest=True)
    with pytest.raises(ConflictError, match="public already"):
        drafts.fetch(f"{NAME}@{TAG}", registry, tmp_path / "draft")


def test_it_is_compared_with_the_newest_release_that_is_older(released, tmp_path, tiny_run):
    from registry import archive
    from registry.runs import read_run

    for tag in ("r20260301", "r20260115"):  # newer and older than the one that is public
        made = archive.build(read_run(tiny_run), NAME, tag, tmp_path / tag, repo=find_repo(tiny_run))
        draft = released.create_draft(NAME, tag, title=tag, notes="")
        released.upload(draft, made.archive)
        released.upload(draft, made.manifest)
    assert drafts.fetch(f"{NAME}@r20260301", released, tmp_path / "new").previous == f"{NAME}@{TAG}"
    assert drafts.fetch(f"{NAME}@r20260115", released, tmp_path / "old").previous == ""


def test_with_actions_too_a_release_of_three_assets_needs_at_most_15_requests(github, hub, repo, workflow):
    theirs = hub.add_token("ghs_workflow")  # the workflow has a token, and a limit, of its own
    workflow.store = GitHubStore(hub.org, token=theirs)
    hub.requests.clear()
    assert len(release(repo, GitHubStore(hub.org), tag=TAG, by="actions").assets) == 3
    ours = [r for r in hub.requests if r.path.startswith("/repos/") and theirs not in r.headers["authorization"]]
    asked = [f"{r.method} {r.path}" for r in ours if not re.search(r"/actions/runs/\d+$", r.path)]
    assert len(asked) <= 13, asked
    assert sum(r.status == 200 for r in ours if re.search(r"/actions/runs/\d+$", r.path)) <= 3  # 304 is free
