"""Write what is generated from the code: docs/model-toml.md, docs/rules.md and schemas/model.schema.json."""

from pathlib import Path

from registry import checks, keys
from registry.files import json_text, write_text

ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    return {
        ROOT / "docs" / "model-toml.md": keys.page(),
        ROOT / "docs" / "rules.md": checks.page(),
        ROOT / "schemas" / "model.schema.json": json_text(keys.schema()),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        write_text(path, text)
