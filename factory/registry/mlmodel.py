"""The MLmodel file of a registered style: its loader, signature and input example."""

from __future__ import annotations

import base64
import json
import platform
from pathlib import Path
from typing import Any

from factory.core.home import Home
from osasis.images.decoding import png_bytes
from osasis.mix import Mix
from osasis.storage import write_atomic

MLMODEL = "MLmodel"
EXAMPLE = "input_example.json"
IMAGE_COLUMN = "image"
# MLflow's types by those of JSON Schema.
_TYPES = {"number": "double", "integer": "long", "string": "string", "boolean": "boolean"}


def write_mlmodel(folder: Path, home: Home, style: str, base: str) -> None:
    """Write a style's MLmodel file, which names its loader module, base and home, and an input
    example, the style image."""
    import mlflow
    import yaml

    model: dict[str, Any] = {
        "flavors": {
            "python_function": {
                "loader_module": "factory.pyfunc",
                "python_version": platform.python_version(),
            }
        },
        # No schema of inputs: MLflow would turn lists of pictures into tables, and refuse them.
        "signature": {"inputs": None, "outputs": None, "params": json.dumps(mix_params())},
        "metadata": {"style": style, "base": base, "home": home.location},
        "mlflow_version": mlflow.__version__,
    }
    if (image := folder / "style.png").is_file():
        example = {"columns": [IMAGE_COLUMN], "data": [[_base64(image)]]}
        write_atomic(folder / EXAMPLE, json.dumps(example).encode())
        model["saved_input_example_info"] = {
            "artifact_path": EXAMPLE,
            "type": "dataframe",
            "pandas_orient": "split",
        }
    write_atomic(folder / MLMODEL, yaml.safe_dump(model, sort_keys=False).encode())


def _base64(image: Path) -> str:
    from PIL import Image

    with Image.open(image, formats=["PNG"]) as picture:
        return base64.b64encode(png_bytes(picture.convert("RGB"))).decode()


def mix_params() -> list[dict[str, Any]]:
    """MLflow's schema of the fields of a mix, without its styles.

    A list without a value is [], as MLflow has no null for lists.
    """
    params = []
    for name, schema in Mix.model_json_schema()["properties"].items():
        if name == "styles":
            continue
        kinds = [s for s in schema.get("anyOf", [schema]) if s.get("type") != "null"]
        default, shape, kind = schema.get("default"), None, kinds[0].get("type", "string")
        if kind == "array":
            default, shape, kind = default or [], [-1], kinds[0]["items"].get("type", "string")
        params.append({"name": name, "type": _TYPES[kind], "default": default, "shape": shape})
    return params
