"""mreg fetch: verified, resumed, cached, and never half a file."""

import errno
import json
import os
import shutil
import threading

import pytest
from fixtures_release import TAG, publish
from fixtures_stores import NAME
from zips import files_below, zip_bytes

from registry import cache, notes, receipts, transfer
from registry.download import fetch, fetch_all, model_for
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import sha256


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))


# --- registries ------------------------------------------------------------------------------------------------------


def test_a_fetched_archive_is_the_published_one_and_lies_in_the_cache(released, tiny_package):
    fetched = fetch(NAME, released)
    assert fetched.path.read_bytes() == tiny_package.archive.read_bytes()
    assert fetched.sha256 == sha256(tiny_package.archive)
    assert (fetched.tag, fetched.path.name) == (TAG, tiny_package.archive.name)
    assert fetched.path.is_relative_to(cache.root())


def test_a_second_fetch_downloads_nothing(released, request, tmp_path):
    first = fetch(NAME, released)
    inode = first.path.stat().st_ino
    hub = request.getfixturevalue("hub") if released.location.startswith("github:") else None
    before = hub.count("GET", r"\.zip") if hub else 0
    again = fetch(f"{NAME}@{TAG}", released)
    copy = fetch(NAME, released, out=tmp_path / "models")
    assert (again.path, again.path.stat().st_ino) == (first.path, inode)
    assert copy.path.read_bytes() == first.path.read_bytes()
    assert hub is None or hub.count("GET", r"\.zip") == before


def test_a_damaged_cache_mends_itself(released, tiny_package):
    path = fetch(NAME, released).path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert fetch(NAME, released).path.read_bytes() == tiny_package.archive.read_bytes()
    folder = fetch(NAME, released, do_unpack=True).path
    (next(folder.glob("nnUNetTrainer*")) / "plans.json").write_text("{}")
    again = fetch(NAME, released, do_unpack=True).path
    assert again == folder
    assert (next(folder.glob("nnUNetTrainer*")) / "plans.json").read_text() != "{}"


def test_without_a_tag_the_newest_good_release_is_fetched(released, tiny_package, capsys):
    newer = publish(released, "r20260202", *_renamed(tiny_package, "r20260202"))
    publish(released, "r20251231", *_renamed(tiny_package, "r20251231"))
    released.create_draft(NAME, "r20260303", title="", notes="")
    assert fetch(NAME, released).tag == "r20260202"
    released.set_notes(newer, notes.write_block("", notes.Block(yanked="wrong labels")))
    assert fetch(NAME, released).tag == TAG
    assert fetch(f"{NAME}@r20260202", released).tag == "r20260202"
    assert "should not be used any more: wrong labels" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="no published release r20260303"):
        fetch(f"{NAME}@r20260303", released)


def _renamed(package, tag):
    """The same package under another tag."""
    folder = package.archive.parent.parent / tag
    if not folder.exists():
        folder.mkdir()
        name = package.archive.name.replace(TAG, tag)
        shutil.copy(package.archive, folder / name)
        document = package.manifest.read_text().replace(TAG, tag)
        (folder / package.manifest.name).write_text(document)
    return sorted(folder.iterdir())


def test_a_fetch_that_was_cut_off_continues_where_it_stopped(released, tiny_package, request, tmp_path):
    whole = tiny_package.archive.read_bytes()
    half = len(whole) // 2
    digest = sha256(tiny_package.archive)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{tiny_package.archive.name}.{digest[:16]}.part").write_bytes(whole[:half])
    if released.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        hub.requests.clear()
    fetched = fetch(NAME, released, out=tmp_path / "out")
    assert fetched.path.read_bytes() == whole
    assert files_below(tmp_path / "out") == [tiny_package.archive.name]
    if released.location.startswith("github:"):
        assert f"bytes={half}-" in [r.headers.get("range") for r in hub.requests if r.server == "storage"]


def test_bytes_that_change_on_the_way_are_refused(released, request, tmp_path):
    if released.location.startswith("github:"):
        hub = request.getfixturevalue("hub")
        archive = next(
            a for r in hub.repo(NAME)["releases"].values() for a in r["assets"].values() if ".zip" in a["name"]
        )
        hub.fault("GET", f"release-assets/{archive['id']}", "alter", times=9)
    else:
        (path,) = released.root.rglob("*.zip")
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="SHA-256 is"):
        fetch(NAME, released, out=tmp_path / "out")
    assert files_below(tmp_path / "out") == []


def test_an_archive_that_its_manifest_does_not_know_is_refused(registry, tiny_package, tmp_path):
    other = tmp_path / tiny_package.archive.name
    other.write_bytes(zip_bytes(a=b"other"))
    publish(registry, TAG, other, tiny_package.manifest)
    with pytest.raises(IntegrityError, match="not the file that its manifest names"):
        fetch(NAME, registry)


def test_a_manifest_of_another_release_is_refused(registry, tiny_package):
    publish(registry, "r20260202", *tiny_package)
    with pytest.raises(IntegrityError, match=rf"is the manifest of .*{TAG}"):
        fetch(NAME, registry)


def test_a_release_that_others_made_is_fetched_with_a_warning(registry, tmp_path, capsys):
    (tmp_path / "model.zip").write_bytes(zip_bytes(a=b"1"))
    publish(registry, "v1.0", tmp_path / "model.zip")
    fetched = fetch(NAME, registry)
    assert fetched.path.read_bytes() == (tmp_path / "model.zip").read_bytes()
    assert "has no mreg-release.json" in capsys.readouterr().err


def test_of_several_archives_one_must_be_chosen(registry, tmp_path):
    for fold in "10":
        (tmp_path / f"model_fold{fold}.zip").write_bytes(zip_bytes(a=fold))
    (tmp_path / "plans.json").write_text("{}")
    files = [tmp_path / name for name in ("model_fold1.zip", "model_fold0.zip", "plans.json")]
    publish(registry, TAG, *files)
    with pytest.raises(MregError, match=r"2 archives: model_fold0\.zip, model_fold1\.zip") as caught:
        fetch(NAME, registry)
    assert caught.value.hint == "choose: --asset model_fold0.zip"
    assert fetch(NAME, registry, asset="model_fold1.zip").path.name == "model_fold1.zip"
    assert fetch(NAME, registry, asset="plans.json").path.read_text() == "{}"
    with pytest.raises(NotFoundError, match=r"no asset model_fold2\.zip"):
        fetch(NAME, registry, asset="model_fold2.zip")


def test_an_asset_that_is_no_zip_is_refused_and_not_kept(registry, tmp_path):
    (tmp_path / "model.zip").write_bytes(b"<html>sorry</html>")
    publish(registry, TAG, tmp_path / "model.zip")
    with pytest.raises(IntegrityError, match="not a zip archive"):
        fetch(NAME, registry, out=tmp_path / "out")
    assert files_below(tmp_path / "out") == []


def test_an_unknown_model_is_answered_with_the_nearest(released):
    with pytest.raises(NotFoundError) as caught:
        fetch("model_seg_sc_t1", released)
    assert caught.value.hint == f"did you mean {NAME}?"
    with pytest.raises(NotFoundError) as caught:
        fetch(f"{NAME}@r20260113", released)
    assert caught.value.hint == f"there are: {TAG}"


def test_a_model_without_release_says_so(registry):
    with pytest.raises(NotFoundError, match="no published release in"):
        fetch(NAME, registry)


def test_unpacked_models_are_folders_of_their_own(released, tiny_package, tmp_path):
    fetched = fetch(NAME, released, out=tmp_path / "models", do_unpack=True)
    assert fetched.path == tmp_path / "models" / tiny_package.archive.stem
    assert [p.name for p in (tmp_path / "models").iterdir()] == [tiny_package.archive.stem]
    assert (model_for(NAME, released) / "plans.json").is_file()
    assert model_for(str(fetched.path)).name == "nnUNetTrainer__nnUNetPlans__3d_fullres"


def test_a_zip_that_leaves_its_folder_is_not_unpacked(registry, tmp_path):
    (tmp_path / "model.zip").write_bytes(zip_bytes(**{"../../evil.txt": b"x"}))
    publish(registry, TAG, tmp_path / "model.zip")
    with pytest.raises(IntegrityError, match="would leave the folder"):
        fetch(NAME, registry, out=tmp_path / "deep" / "out", do_unpack=True)
    assert not list(tmp_path.rglob("evil.txt"))


def test_another_file_of_that_name_is_not_overwritten(released, tiny_package, tmp_path):
    mine = tmp_path / tiny_package.archive.name
    mine.write_bytes(b"mine")
    with pytest.raises(ConflictError, match="another file"):
        fetch(NAME, released, out=tmp_path)
    assert mine.read_bytes() == b"mine"


def test_parallel_fetches_download_once(released_github, hub):
    hub.requests.clear()
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(NAME, type(released_github)(hub.org)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.path for result in results}) == 1
    assert len(results) == 4
    assert sum(r.path.endswith(".zip") for r in hub.requests if r.server == "api") == 1


def test_a_cache_that_may_only_be_read_serves_what_is_in_it(released, monkeypatch, tmp_path):
    first = fetch(NAME, released, do_unpack=True).path

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache, "FileLock", lambda path: _ReadOnlyLock())
    monkeypatch.setattr(receipts, "write_json", refuse)
    (receipt,) = (cache.root() / "receipts").rglob("*.json")
    for spoilt in ("{}", "", "null", "[" * 100_000):  # which would be written anew
        receipt.write_text(spoilt)
        assert fetch(NAME, released, do_unpack=True).path == first
    assert fetch(NAME, released, out=tmp_path / "out").path.is_file()


class _ReadOnlyLock:
    """What filelock does in a folder that may only be read."""

    def acquire(self, timeout=-1):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def release(self):
        pass


def test_what_killed_processes_left_is_swept_away(released, tiny_package, tmp_path):
    out, name = tmp_path / "out", tiny_package.archive.name
    path = fetch(NAME, released, out=out).path
    folder = fetch(NAME, released, out=out, do_unpack=True).path
    left = [out / f".{name}.x1y2.part", out / f".{folder.name}.x1y2.part" / "fold_0" / "checkpoint_final.pth"]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    path.unlink()
    shutil.rmtree(folder)
    fetch(NAME, released, out=out)
    fetch(NAME, released, out=out, do_unpack=True)
    assert sorted(p.name for p in out.iterdir()) == sorted([name, folder.name])


def test_an_archive_of_a_tag_with_a_slash_is_found_again_without_a_network(github, hub, tmp_path):
    hub.add_repo(NAME, files={"README.md": b"x"})
    hub.add_release(NAME, "release/1.0", {"model.zip": zip_bytes(a=b"1")})
    path = fetch(f"{NAME}@release/1.0", github).path
    (again,) = fetch_all([f"{NAME}@release/1.0"], github.location, offline=True)
    assert again.path == path


@pytest.mark.parametrize("address", ["http://[", "https://host:port/x.zip", "no address at all", "\0"])
def test_a_mirror_that_is_no_address_is_passed_over(released_github, hub, tiny_package, address):
    (release,) = released_github.releases(NAME)
    released_github.set_notes(release, notes.write_block("", notes.Block(mirrors=(address,))))
    assert fetch(NAME, released_github).sha256 == sha256(tiny_package.archive)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_path_a_ref(released, tiny_package, mreg, tmp_path):
    result = mreg("fetch", NAME, tiny_package.archive, "-o", tmp_path / "out", "--registry", released.location)
    assert result.exit_code == 0
    path = tmp_path / "out" / tiny_package.archive.name
    assert result.stdout == f"{path}\n{path}\n"


def test_the_command_prints_one_document(released, tiny_package, mreg):
    result = mreg("fetch", NAME, "--json", "--registry", released.location)
    (document,) = json.loads(result.stdout)
    assert document["sha256"] == sha256(tiny_package.archive)
    assert (document["ref"], document["tag"], document["size"]) == (NAME, TAG, tiny_package.archive.stat().st_size)


def test_the_command_says_what_went_wrong_and_ends_with_one(released, mreg):
    result = mreg("fetch", "model_seg_sc_t1", "--registry", released.location)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"did you mean {NAME}?" in result.stderr
