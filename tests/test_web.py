"""Archives at addresses and on this machine: named safely, resumed, and led nowhere by redirects."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import unquote

import pytest
from fixtures_stores import NAME
from zips import files_below, zip_bytes

from registry import transfer, web
from registry.download import fetch, model_for
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.files import sha256
from registry.refs import UrlRef
from registry.transfer import Source, download


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))


def test_a_local_archive_is_a_ref(tiny_package, tmp_path):
    assert fetch(str(tiny_package.archive)).path == tiny_package.archive
    copied = fetch(str(tiny_package.archive), out=tmp_path / "out").path
    assert copied.read_bytes() == tiny_package.archive.read_bytes()
    assert model_for(str(tiny_package.archive)).name.startswith("nnUNetTrainer")
    (tmp_path / "broken.zip").write_bytes(b"no")
    with pytest.raises(IntegrityError, match=r"broken\.zip: not a zip"):
        fetch(str(tmp_path / "broken.zip"))


class Site(BaseHTTPRequestHandler):
    """A web server: /a.zip with ranges, /plain without, /elsewhere redirects, /model?x has its name in a header."""

    data = zip_bytes(a=os.urandom(1_000_000))
    etag = '"v1"'
    cut = 0  # bytes after which an answer breaks off

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = type(self)
        site.seen.append((self.path, dict(self.headers)))
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", unquote(self.path.partition("=")[2]))
            self.end_headers()
            return
        if self.path == "/missing.zip":
            self.send_error(404)
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.path != "/plain.zip" and self.headers.get("If-Range") == site.etag:
            start = int(wanted[6:-1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.data) - 1}/{len(site.data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(site.data) - start))
        if self.path.startswith("/model"):
            self.send_header("Content-Disposition", 'attachment; filename="../the model.zip"')
        self.end_headers()
        self.wfile.write(site.data[start : start + site.cut] if site.cut else site.data[start:])


@pytest.fixture
def site():
    handler = type("Handler", (Site,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_is_fetched_cached_and_its_digest_told(site, capsys):
    fetched = fetch(f"{site.url}/a.zip")
    assert fetched.path.read_bytes() == site.data
    assert fetched.sha256 in capsys.readouterr().err
    assert fetch(f"{site.url}/a.zip").path == fetched.path
    site.data, site.etag = zip_bytes(b=b"new"), '"v2"'
    assert fetch(f"{site.url}/a.zip").path.read_bytes() == site.data


def test_a_broken_connection_to_an_address_is_resumed_with_a_condition(site, tmp_path):
    site.cut = 400_000
    fetched = fetch(f"{site.url}/a.zip", out=tmp_path)
    assert fetched.path.read_bytes() == site.data
    ranges = [(headers.get("Range"), headers.get("If-Range")) for _, headers in site.seen]
    assert ranges == [(None, None), ("bytes=400000-", '"v1"'), ("bytes=800000-", '"v1"')]


def test_a_server_without_ranges_still_gives_the_right_file(site, tmp_path):
    site.cut = 400_000
    with pytest.raises(IntegrityError, match="ended after 400000"):
        fetch(f"{site.url}/plain.zip", out=tmp_path / "out")
    site.cut = 0
    assert fetch(f"{site.url}/plain.zip", out=tmp_path / "out").path.read_bytes() == site.data
    assert files_below(tmp_path / "out") == ["plain.zip"]


def test_a_file_that_changes_while_it_is_read_is_refused(site, tmp_path):
    site.cut = 400_000
    with pytest.raises(IntegrityError, match="ended after"):
        fetch(f"{site.url}/plain.zip", out=tmp_path)
    site.cut, site.data, site.etag = 0, zip_bytes(b=b"new"), '"v2"'
    assert fetch(f"{site.url}/plain.zip", out=tmp_path).path.read_bytes() == site.data


def test_a_connection_that_breaks_while_the_beginning_is_skipped_is_resumed(site, tmp_path):
    """A server that knows no ranges sends what is there already once more, and breaks off before anything new."""
    (tmp_path / "a.zip").write_bytes(site.data)
    source = Source(label="a.zip", identity="x", size=len(site.data), sha256=sha256(tmp_path / "a.zip"), open=None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.zip.x.part").write_bytes(site.data[:500_000])
    site.cut = 400_000
    with pytest.raises(IntegrityError, match="ended after 500000"):
        download(web.mirror(UrlRef(f"{site.url}/plain.zip"), source), tmp_path / "out" / "a.zip")
    site.cut = 0
    download(web.mirror(UrlRef(f"{site.url}/plain.zip"), source), tmp_path / "out" / "a.zip")
    assert (tmp_path / "out" / "a.zip").read_bytes() == site.data


def test_the_name_of_a_file_comes_from_the_server_and_stays_in_the_folder(site, tmp_path):
    assert fetch(f"{site.url}/model?download=1", out=tmp_path / "out").path == tmp_path / "out" / "the_model.zip"


@pytest.mark.parametrize(
    ("path", "error", "word"),
    [
        ("/missing.zip", NotFoundError, "answers 404"),
        ("/elsewhere?to=http://example.org/a.zip", MregError, "not encrypted"),
        ("/elsewhere?to=file:///etc/passwd", MregError, "not encrypted"),
        ("/elsewhere?to=/elsewhere?to=", MregError, "redirects|not encrypted"),
        ("/elsewhere?to=http://[", MregError, "Invalid IPv6 URL"),
    ],
)
def test_addresses_that_lead_nowhere_good_are_one_error(site, tmp_path, path, error, word):
    with pytest.raises(error, match=word):
        fetch(site.url + path, out=tmp_path)
    assert files_below(tmp_path) == []


def test_a_token_is_sent_to_no_address(released_github, hub, tmp_path):
    url = fetch(NAME, released_github).url
    hub.requests.clear()
    assert fetch(url, out=tmp_path).path.is_file()
    assert len(hub.requests) == 2
    assert not any("authorization" in r.headers for r in hub.requests)


def test_a_server_that_is_not_there_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE", 0)
    with pytest.raises(MregError, match=r"127\.0\.0\.1") as caught:
        fetch("http://127.0.0.1:9/a.zip", out=tmp_path)
    assert "network" in caught.value.hint
