"""The production configuration is valid for Ray Serve and for the server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from osasis.validation import InvalidInputError
from serving.config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]


def test_serve_yaml_is_a_deployment_of_known_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    data = yaml.safe_load((ROOT / "infra" / "serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(data) if hasattr(
        ServeDeploySchema, "model_validate") else ServeDeploySchema.parse_obj(data)  # fmt: skip
    app = schema.applications[0]
    assert app.import_path == "serving.app:build"
    assert ServeConfig.parse(app.args).replicas == 2
    # Ray Serve ignores misspelt names.
    assert set(data) <= set(ServeDeploySchema.model_fields)
    assert set(data["applications"][0]) <= set(type(app).model_fields)


def test_all_mistakes_in_a_configuration_are_reported_together() -> None:
    with pytest.raises(InvalidInputError) as e:
        ServeConfig.parse({"replica": 2, "queue": 0, "limits": {"pixels": "many", "byte": 1}})
    found = {p.field: p for p in e.value.problems}
    assert set(found) == {"replica", "queue", "limits.pixels", "limits.byte"}
    assert "(nearest: replicas" in found["replica"].message
    assert found["queue"].allowed == "a whole number in [1, 10000000000000]"
