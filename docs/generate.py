"""Write what is generated from the code: pages of the manual, and the schemas of documents that are models here."""

from pathlib import Path

from registry import checks, keys, manifest, schema_page
from registry.files import json_text, write_text

ROOT = Path(__file__).resolve().parents[1]


def generated_schemas() -> dict[Path, str]:
    """Return the text of each generated schema."""
    return {
        ROOT / "schemas" / "manifest.schema.json": json_text(manifest.schema()),
        ROOT / "schemas" / "model.schema.json": json_text(keys.schema()),
    }


def generated_pages() -> dict[Path, str]:
    """Return the text of each generated page; that of the schemas reads their files."""
    return {
        ROOT / "docs" / "model-toml.md": keys.page(),
        ROOT / "docs" / "rules.md": checks.page(),
        ROOT / "docs" / "schemas.md": schema_page.page(),
    }


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    return generated_schemas() | generated_pages()


if __name__ == "__main__":
    for made in (generated_schemas, generated_pages):
        for path, text in made().items():
            write_text(path, text)
