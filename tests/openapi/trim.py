"""Cut the routes that mreg uses out of GitHub's OpenAPI description: `python trim.py api.github.com.json`.

The result, github.json, holds plain JSON schemas (draft 2020-12): OpenAPI's `nullable` becomes the type null, and what
explains instead of constraining is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROUTES = """
GET /orgs/{org}/repos
POST /orgs/{org}/repos
GET /users/{username}
GET /users/{username}/repos
GET /user
POST /user/repos
GET /rate_limit
GET /repos/{owner}/{repo}
PATCH /repos/{owner}/{repo}
GET /repos/{owner}/{repo}/topics
PUT /repos/{owner}/{repo}/topics
GET /repos/{owner}/{repo}/labels
POST /repos/{owner}/{repo}/labels
GET /repos/{owner}/{repo}/branches/{branch}
GET /repos/{owner}/{repo}/branches/{branch}/protection
PUT /repos/{owner}/{repo}/branches/{branch}/protection
GET /repos/{owner}/{repo}/contents/{path}
PUT /repos/{owner}/{repo}/contents/{path}
POST /repos/{owner}/{repo}/git/blobs
GET /repos/{owner}/{repo}/git/blobs/{file_sha}
POST /repos/{owner}/{repo}/git/trees
GET /repos/{owner}/{repo}/git/trees/{tree_sha}
POST /repos/{owner}/{repo}/git/commits
GET /repos/{owner}/{repo}/git/commits/{commit_sha}
GET /repos/{owner}/{repo}/git/ref/{ref}
POST /repos/{owner}/{repo}/git/refs
PATCH /repos/{owner}/{repo}/git/refs/{ref}
GET /repos/{owner}/{repo}/commits
GET /repos/{owner}/{repo}/releases
POST /repos/{owner}/{repo}/releases
GET /repos/{owner}/{repo}/releases/latest
GET /repos/{owner}/{repo}/releases/tags/{tag}
GET /repos/{owner}/{repo}/releases/{release_id}
PATCH /repos/{owner}/{repo}/releases/{release_id}
DELETE /repos/{owner}/{repo}/releases/{release_id}
GET /repos/{owner}/{repo}/releases/{release_id}/assets
POST /repos/{owner}/{repo}/releases/{release_id}/assets
GET /repos/{owner}/{repo}/releases/assets/{asset_id}
DELETE /repos/{owner}/{repo}/releases/assets/{asset_id}
GET /repos/{owner}/{repo}/actions/workflows/{workflow_id}
GET /repos/{owner}/{repo}/actions/workflows/{workflow_id}/runs
POST /repos/{owner}/{repo}/actions/workflows/{workflow_id}/dispatches
GET /repos/{owner}/{repo}/actions/runs/{run_id}
GET /repos/{owner}/{repo}/actions/runs/{run_id}/jobs
GET /repos/{owner}/{repo}/check-runs/{check_run_id}/annotations
GET /repos/{owner}/{repo}/attestations/{subject_digest}
POST /repos/{owner}/{repo}/attestations
"""
TALK = {"description", "example", "examples", "title", "externalDocs", "deprecated", "default", "nullable"}


def schema_of(node: Any) -> Any:
    """Turn one OpenAPI 3.0 schema into a JSON schema without talk."""
    if isinstance(node, list):
        return [schema_of(item) for item in node]
    if not isinstance(node, dict):
        return node
    trimmed = {}
    for key, value in node.items():
        if key in TALK or key.startswith("x-"):
            continue
        trimmed[key] = {k: schema_of(v) for k, v in value.items()} if key == "properties" else schema_of(value)
    if not node.get("nullable"):
        return trimmed
    return {"anyOf": [trimmed, {"type": "null"}]}


def references(node: Any) -> set[str]:
    """Return the names of the component schemas that a schema points to."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values()))
    if isinstance(node.get("$ref"), str):
        found.add(node["$ref"].rpartition("/")[2])
    return found


def json_schema(content: dict[str, Any]) -> Any:
    """Return the schema of a JSON body, or null where the body is something else."""
    body = content.get("content", {}).get("application/json")
    return schema_of(body.get("schema", {})) if body else None


def excerpt(document: dict[str, Any]) -> dict[str, Any]:
    """Return the routes with the schemas of their requests and answers, and all schemas that those need."""
    responses = document["components"]["responses"]
    routes = {}
    for route in ROUTES.split("\n")[1:-1]:
        method, path = route.split()
        operation = document["paths"][path][method.lower()]
        answers = {
            status: json_schema(responses[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer)
            for status, answer in operation["responses"].items()
        }
        routes[route] = {"request": json_schema(operation.get("requestBody", {})), "answers": answers}
    schemas: dict[str, Any] = {}
    wanted = references(routes)
    while missing := wanted - set(schemas):
        for name in missing:
            schemas[name] = schema_of(document["components"]["schemas"][name])
            wanted |= references(schemas[name])
    return {
        "source": f"{document['info']['title']} {document['info']['version']}",
        "licence": document["info"]["license"]["name"],
        "routes": routes,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def one_line_an_entry(document: dict[str, Any]) -> str:
    """Write JSON with one line for each route and each schema, which is small and still shows a difference."""

    def block(entries: dict[str, Any]) -> str:
        return ",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in entries.items())

    head = ",\n".join(f"{json.dumps(key)}:{json.dumps(document[key])}" for key in ("source", "licence"))
    schemas = block(document["components"]["schemas"])
    return f'{{{head},\n"routes":{{\n{block(document["routes"])}\n}},\n"components":{{"schemas":{{\n{schemas}\n}}}}}}\n'


def main() -> None:
    """Read the description, write github.json beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("description", type=Path)
    document = excerpt(json.loads(parser.parse_args().description.read_bytes()))
    Path(__file__).with_name("github.json").write_text(one_line_an_entry(document), encoding="utf-8")


if __name__ == "__main__":
    main()
