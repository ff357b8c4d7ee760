"""The manifest's model and its schema say the same of every document."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from registry import archive, manifest, reference
from registry.errors import IntegrityError, NotFoundError
from registry.runs import read_run
from registry.schemas import load, validate

SCHEMA = Draft202012Validator(manifest.schema())
odd_values = st.sampled_from(
    [None, True, 1, 0, -1, 1.0, 1.5, "", "x", "RPI", "a" * 64, "0" * 64 + "\n", [], [1], {}, {"a": 1}]
)


@pytest.fixture(scope="module")
def document(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    image = manifest.ReferenceImage(kind="mni152", shape=(4, 4, 4), sha256="0" * 64)
    labels = np.arange(64).reshape(4, 4, 4) % 3
    made = archive.build(
        read_run(tiny_run),
        "model_seg_sc_t2",
        "r20261121",
        tmp_path_factory.mktemp("manifest"),
        reference=lambda _: reference.describe(labels, image),
    )
    return json.loads(made.manifest.read_bytes())


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the path of every value in a document."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def change(document: dict, path: tuple, how: str, value: object) -> dict:
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if not path:
        return changed
    if how == "remove":
        del parent[path[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent["another"] = value
    else:
        parent[path[-1]] = value
    return changed


def accepted(document: object) -> bool:
    try:
        manifest.Manifest.model_validate_json(json.dumps(document))
    except ValueError:
        return False
    return True


def test_the_schema_file_is_the_models_schema() -> None:
    assert load("manifest") == manifest.schema(), (
        "python -c 'import json; from registry import manifest; print(json.dumps(manifest.schema(), indent=2))' "
        "> schemas/manifest.schema.json"
    )


def test_a_real_manifest_passes_both(document: dict) -> None:
    assert validate("manifest", document, manifest.MANIFEST_NAME) == []
    assert accepted(document)


@given(data=st.data(), how=st.sampled_from(["replace", "remove", "add"]), value=odd_values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_schema_and_model_give_the_same_verdict(document: dict, data: st.DataObject, how: str, value: object) -> None:
    path = data.draw(st.sampled_from(places(document)))
    changed = change(document, path, how, value)
    assert accepted(changed) == SCHEMA.is_valid(changed), (path, how, value)


def test_text_and_parse_are_inverse(document: dict) -> None:
    found = manifest.parse(json.dumps(document).encode())
    assert json.loads(found.text()) == document
    assert manifest.parse(found.text().encode()) == found
    assert found.archives == ["model_seg_sc_t2-r20261121.zip"]
    assert found.sha256_of(found.archives[0]) == document["assets"][0]["sha256"]
    assert found.sha256_of("other") == ""
    assert found.model(found.archives[0]).orientation == "RPI"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not JSON"), ("[]", "should be an object"), ('{"schema_version": NaN}', "NaN is no number"), ("{}", "name"),
     ("\xff", "not JSON"), ("[" * 100_000, "not JSON")],
)  # fmt: skip
def test_anything_else_is_one_error(text: str, message: str) -> None:
    with pytest.raises(IntegrityError, match=f"^m.json: .*{message}"):
        manifest.parse(text.encode("latin1"), "m.json")


def test_a_manifest_from_before_there_were_references_is_read(document: dict) -> None:
    old = copy.deepcopy(document)
    del old["models"][0]["reference"]
    assert manifest.parse(json.dumps(old).encode()).models[0].reference is None
    assert validate("manifest", old, manifest.MANIFEST_NAME) == []


def test_an_unknown_key_is_named(document: dict) -> None:
    with pytest.raises(IntegrityError, match="unknown key 'colour'"):
        manifest.parse(json.dumps({**document, "colour": 1}).encode())


def test_a_newer_schema_says_to_update(document: dict) -> None:
    with pytest.raises(IntegrityError) as error:
        manifest.parse(json.dumps({**document, "schema_version": 2}).encode())
    assert "newer mreg" in error.value.hint


def test_an_archive_without_its_asset_is_refused(document: dict) -> None:
    other = [{**document["assets"][0], "name": "other.zip"}]
    with pytest.raises(IntegrityError, match="do not fit"):
        manifest.parse(json.dumps({**document, "assets": other}).encode())


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"mreg-release\.json: no such file"):
        manifest.read(tmp_path / "mreg-release.json")
