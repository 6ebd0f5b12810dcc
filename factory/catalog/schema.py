"""The JSON Schema of YAML catalogs, for editors; made from the settings themselves."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from factory.core.bases import NAME
from osasis.settings import TrainSettings

FILE = "schemas/catalog.schema.json"


def catalog_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    location = {"type": "string", "minLength": 1}
    entry = {
        "type": "object",
        "required": ["image"],
        "additionalProperties": False,
        "properties": {
            "id": {
                "type": "string",
                "pattern": f"^{NAME.pattern}$",
                "description": "Name in the registry; the image's file name where it is left out.",
            },
            "image": {
                **location,
                "description": "The style image: a path relative to this file, or a URI.",
            },
            "counterpart": {
                **location,
                "description": "Its photo counterpart; made by the base where it is left out.",
            },
            "overrides": {
                "type": "object",
                "description": "Training settings of this style that differ from the run's.",
                "additionalProperties": False,
                "properties": settings_schema(),
            },
            "tags": {"type": "array", "items": {"type": "string"}},
            "licence": {"type": "string", "description": "Licence note, kept with the style."},
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Catalog of style images",
        "type": "object",
        "required": ["styles"],
        "additionalProperties": False,
        "properties": {
            "styles": {"type": "array", "minItems": 1, "items": entry},
            "gate": {
                "type": "array",
                "description": "Conditions on a style's metrics for it to become champion.",
                "items": {"type": "string", "pattern": r"^\s*\w+\s*(<=|>=|<|>)\s*\S+\s*$"},
            },
        },
    }


def settings_schema() -> dict[str, Any]:
    """A schema of each training setting: type, range or choices, default."""
    properties: dict[str, Any] = TrainSettings.model_json_schema()["properties"]
    return properties


def schema_text() -> str:
    """The schema as it is shipped."""
    return json.dumps(catalog_schema(), indent=2) + "\n"


def shipped_schema() -> str:
    """The file that comes with the package."""
    return resources.files("factory").joinpath(FILE).read_text(encoding="utf-8")
