"""JSON Schema of YAML catalogs for editors, generated from the models."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from factory.catalog.entries import CatalogFile

FILE = "schemas/catalog.schema.json"


def catalog_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    schema = CatalogFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The schema as the text of the packaged file."""
    return json.dumps(catalog_schema(), indent=2) + "\n"


def shipped_schema() -> str:
    """Read the packaged schema."""
    return resources.files("factory").joinpath(FILE).read_text(encoding="utf-8")
