"""Write an unsigned bundle, record it at the API, and set the output bundle-path."""

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path

lines = [line.split("  ", 1) for line in Path(sys.argv[1]).read_text().splitlines()]
statement = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": name, "digest": {"sha256": digest}} for digest, name in lines],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {},
}
envelope = {
    "payloadType": "application/vnd.in-toto+json",
    "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
    "signatures": [{"sig": ""}],
}
bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
path = Path(os.environ["RUNNER_TEMP"], "attestation.json")
path.write_text(json.dumps(bundle))
address = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/attestations"
headers = {"Authorization": f"token {os.environ['HUB_TOKEN']}", "Content-Type": "application/json"}
body = json.dumps({"bundle": bundle}).encode()
with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as answer:
    assert answer.status == 201
with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
    file.write(f"bundle-path={path}\n")
