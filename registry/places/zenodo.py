"""Zenodo as the second place, through its documented deposit API: deposition, bucket, publication.

A published record is for ever, so everything is compared before. Found again by title and version: a second run
continues the same draft, and does nothing where the record is published with the same bytes.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from registry import cache, output
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import write_json
from registry.places.web_api import Json, WebApi, md5, require_arrived

if TYPE_CHECKING:
    from pathlib import Path

    from registry.places import Deposit
    from registry.release_plan import LocalAsset

PAGE = 100
DEPOSITIONS = "api/deposit/depositions"


class Zenodo:
    """zenodo.org, its sandbox, or a server that speaks the same language."""

    public = True

    def __init__(self, url: str) -> None:
        base = url.rstrip("/").removesuffix("/api")
        self.label = f"zenodo:{base}"
        self._api = WebApi("Zenodo", base, "ZENODO_TOKEN")

    def copy(self, deposit: Deposit) -> dict[str, str]:
        """Make, fill and publish a record of the release."""
        sums = {file.name: md5(file.path) for file in deposit.files}
        found = self._remembered(deposit) or self._listed(deposit)
        if found and found["submitted"]:
            self._require_same(found, deposit, sums)
        else:
            draft = self._described(found, deposit)
            self._fill(draft, deposit, sums)
            self._require_same(self._read(draft["id"]), deposit, sums)
            with output.stage(f"publish {deposit.title} on Zenodo"):
                found = self._api.call(
                    "POST", f"{DEPOSITIONS}/{draft['id']}/actions/publish", what="publish the record"
                )
        record = found.get("record_id") or found["id"]
        address = f"{self._api.base}/records/{record}/files"
        return {file.name: f"{address}/{quote(file.name)}?download=1" for file in deposit.files}

    def _described(self, draft: Json | None, deposit: Deposit) -> Json:
        """Create the draft or bring its description up to date."""
        body = {"metadata": metadata(deposit)}
        if draft is None:
            draft = self._api.call("POST", DEPOSITIONS, what="create a deposit", body=body)
            write_json(self._receipt(deposit), {"id": draft["id"]})
        else:
            output.say(f"Zenodo: continuing the deposit {draft['id']}")
            draft = self._api.call("PUT", f"{DEPOSITIONS}/{draft['id']}", what="describe the deposit", body=body)
        assert draft is not None  # noqa: S101 - for mypy
        return draft

    def _fill(self, draft: Json, deposit: Deposit, sums: dict[str, str]) -> None:
        there = {file["filename"]: file for file in draft.get("files") or []}
        for name, file in there.items():
            if sums.get(name) != file["checksum"].removeprefix("md5:"):
                address = f"{DEPOSITIONS}/{draft['id']}/files/{file['id']}"
                self._api.call("DELETE", address, what=f"delete {name}")
        for local in deposit.files:
            known = there.get(local.name)
            if known is None or known["checksum"].removeprefix("md5:") != sums[local.name]:
                self._upload(draft["links"]["bucket"], local, sums[local.name])

    def _upload(self, bucket: str, file: LocalAsset, expected: str) -> None:
        address = f"{bucket.rstrip('/')}/{quote(file.name)}"
        with output.byte_progress(f"Zenodo: {file.name}", file.size) as progress:
            answer = self._api.call("PUT", address, what=f"upload {file.name}", file=file.path, progress=progress)
        require_arrived("Zenodo", file, expected, str(answer.get("checksum", "")))

    def _require_same(self, record: Json, deposit: Deposit, sums: dict[str, str]) -> None:
        there = {file["filename"]: file["checksum"].removeprefix("md5:") for file in record.get("files") or []}
        if there != sums:
            other = sorted(name for name in {*there, *sums} if there.get(name) != sums.get(name))
            raise ConflictError(
                f"Zenodo: the record {record['id']} of {deposit.title} has another {other[0]}",
                hint="look at it on Zenodo: a published record cannot be changed",
            )

    def _listed(self, deposit: Deposit) -> Json | None:
        """Find a deposit of this release among the user's own."""
        page = 1
        while True:
            query = {"q": f'"{deposit.name}"', "page": str(page), "size": str(PAGE)}
            entries = self._api.call("GET", DEPOSITIONS, what="list your deposits", query=query)
            for entry in entries:
                known = entry.get("metadata") or {}
                if (known.get("title"), known.get("version")) == (deposit.title, deposit.tag):
                    return self._read(entry["id"])
            if len(entries) < PAGE:
                return None
            page += 1

    def _remembered(self, deposit: Deposit) -> Json | None:
        """Find the deposit that an interrupted run on this machine has made: Zenodo's list lags behind."""
        try:
            number = int(json.loads(self._receipt(deposit).read_bytes())["id"])
            return self._read(number)
        except (OSError, ValueError, KeyError, TypeError, NotFoundError):
            return None

    def _read(self, number: int) -> Json:
        found: Json = self._api.call("GET", f"{DEPOSITIONS}/{number}", what=f"read the deposit {number}")
        return found

    def _receipt(self, deposit: Deposit) -> Path:
        return cache.root() / "deposits" / f"{cache.key_of(self.label, deposit.title)[:32]}.json"


def metadata(deposit: Deposit) -> Json:
    """Return Zenodo's description of a release; raise `MregError` where it would refuse it."""
    if not deposit.creators:
        raise MregError(
            "Zenodo wants to know who made the model", hint="authors in model.toml, or --creator 'Lovelace, Ada'"
        )
    text = deposit.description or deposit.title
    related = [{"identifier": deposit.page, "relation": "isIdenticalTo"}] if deposit.page else []
    return {
        "title": deposit.title,
        "upload_type": "software",
        "description": f"<p>{html.escape(text)}</p>",
        "creators": [{"name": name} for name in deposit.creators],
        "access_right": "open",
        "license": deposit.licence.lower(),
        "version": deposit.tag,
        "publication_date": deposit.published_on,
        "related_identifiers": related,
    }
