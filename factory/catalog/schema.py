"""The JSON Schema of YAML catalogs, for editors; made from the models themselves."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from factory.catalog.entries import EntryInput

FILE = "schemas/catalog.schema.json"


def catalog_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Catalog of style images",
        "type": "object",
        "required": ["styles"],
        "additionalProperties": False,
        "properties": {
            "styles": {"type": "array", "minItems": 1, "items": EntryInput.model_json_schema()},
            "gate": {
                "type": "array",
                "description": "Conditions on a style's metrics for it to become champion.",
                "items": {"type": "string", "pattern": r"^\s*\w+\s*(<=|>=|<|>)\s*\S+\s*$"},
            },
        },
    }


def schema_text() -> str:
    """The schema as it is shipped."""
    return json.dumps(catalog_schema(), indent=2) + "\n"


def shipped_schema() -> str:
    """The file that comes with the package."""
    return resources.files("factory").joinpath(FILE).read_text(encoding="utf-8")
