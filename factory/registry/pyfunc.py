"""A registered style as an MLflow pyfunc model, without a pickle.

``mlflow.pyfunc.load_model("models:/NAME@champion").predict(images)`` needs this package, and the
style's base in the home at STYLE_FACTORY_HOME or in the home that registered the style.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from factory.core.home import HOME_VARIABLE, Home
from factory.registry.mlmodel import IMAGE_COLUMN, MLMODEL
from osasis.errors import UserError
from osasis.images.decoding import load_image, png_bytes
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor, tensor_to_image

if TYPE_CHECKING:
    import torch

FORMS = (
    "a list of PIL images, arrays (H, W, 3), encoded bytes or paths, an array (N, H, W, 3), or a "
    "DataFrame with a column image"
)


def _load_pyfunc(path: str) -> StylePredictor:
    """Entry point that MLflow calls with the model's folder."""
    return StylePredictor(Path(path))


class StylePredictor:
    """Stylizes images with one style."""

    def __init__(self, folder: Path) -> None:
        import yaml

        from factory.methods import load_base, load_style

        model = yaml.safe_load((folder / MLMODEL).read_text())["metadata"]
        # HOME/artifacts/RUN/artifacts/style; the recorded home may have been moved.
        homes = [str(Path(*folder.absolute().parts[:-4])), model["home"]]
        self.base = load_base(find_base(model["base"], homes))
        self.style = load_style(folder, self.base)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Stylize images; params: fields of a mix, such as ``{"strength": 0.7}``.

        model_input: a list of PIL images, of arrays (H, W, 3) uint8, or of encoded bytes or
        paths; an array (N, H, W, 3); or a DataFrame (or dict) whose column ``image`` holds encoded
        bytes, or these as base64. Returns images of the base's size in the form of the input: PIL
        images, arrays, PNG bytes (for bytes and paths), or a DataFrame of PNG bytes. Raises
        UserError for other inputs, invalid params, and images that cannot be read.
        """
        if isinstance(model_input, dict):
            import pandas as pd

            column = model_input.get(IMAGE_COLUMN, [])
            single = isinstance(column, (bytes, str))
            model_input = pd.DataFrame({IMAGE_COLUMN: [column] if single else list(column)})
        if hasattr(model_input, "columns"):
            if IMAGE_COLUMN not in model_input.columns:
                columns = ", ".join(map(str, model_input.columns))
                raise UserError(f"the input has no column {IMAGE_COLUMN!r}: there are {columns}")
            cells = [_from_base64(x, i) for i, x in enumerate(model_input[IMAGE_COLUMN])]
            out = self.predict(cells, params)
            return type(model_input)({IMAGE_COLUMN: out}, index=model_input.index)
        items = _items(model_input)
        squares = [self._square(item, i) for i, item in enumerate(items)]
        images = self._stylize(squares, _fields(params or {}))
        out = [_as_input_type(x, image) for x, image in zip(items, images, strict=True)]
        return np.stack(out) if isinstance(model_input, np.ndarray) else out

    def _square(self, item: Any, number: int) -> torch.Tensor:
        size, name = self.base.image_size, f"image {number}"
        if isinstance(item, Image.Image):
            # load_image applies orientation, colour profile and transparency.
            buffer = io.BytesIO()
            item.save(buffer, "PNG")
            item = buffer.getvalue()
        elif isinstance(item, np.ndarray):
            if item.ndim != 3 or item.shape[-1] != 3 or item.dtype != np.uint8:
                raise UserError(
                    f"{name} is an array {item.shape} of {item.dtype}; give (H, W, 3) of uint8"
                )
            return image_to_tensor(fit_square(Image.fromarray(item), size))
        elif not isinstance(item, (bytes, bytearray, memoryview, str, os.PathLike)):
            raise UserError(
                f"{name} is a {type(item).__name__}; give PIL images, arrays, bytes or paths"
            )
        if isinstance(item, (str, os.PathLike)):
            return image_to_tensor(fit_square(load_image(item, target=size), size))
        return image_to_tensor(fit_square(load_image(bytes(item), name=name, target=size), size))

    def _stylize(self, photos: list[torch.Tensor], fields: dict[str, Any]) -> Iterable[Image.Image]:
        import torch

        from factory.methods import check_mix
        from osasis.mix import Mix

        base = self.base
        mix = Mix.parse({"styles": [{"style": self.style.id}], **fields})
        check_mix(mix, base.info)
        plan = base.plan(mix, self.style.settings)
        encodings = base.encode(torch.stack(photos).to(base.device), plan)
        recipe = base.recipe(mix, {self.style.id: self.style}, plan)
        return [tensor_to_image(i) for i in base.decode_rows([(encodings, recipe)])]


def _items(model_input: Any) -> list[Any]:
    """The images of an input. Raises UserError for an input of another form."""
    if isinstance(model_input, (bytes, str, os.PathLike, Image.Image)):
        return [model_input]
    if isinstance(model_input, np.ndarray) and model_input.ndim == 3:
        raise UserError(
            f"the input is one array {model_input.shape}; put it into a list, or give an array "
            "(N, H, W, 3)"
        )
    items = list(model_input) if isinstance(model_input, (list, tuple, np.ndarray)) else []
    if not items:
        given = "empty" if isinstance(model_input, (list, tuple, np.ndarray)) else None
        raise UserError(f"the input is {given or type(model_input).__name__}; give {FORMS}")
    return items


def _fields(params: dict[str, Any]) -> dict[str, Any]:
    """Params as fields of a mix: without those that are not set, and without NumPy's types."""
    plain = {name: value.item() if hasattr(value, "item") else value
             for name, value in params.items()}  # fmt: skip
    return {name: value for name, value in plain.items() if value is not None and value != []}


def _from_base64(cell: Any, number: int) -> Any:
    """The bytes of a cell of text; other cells unchanged. Raises UserError."""
    if not isinstance(cell, str):
        return cell
    try:
        return base64.b64decode(cell, validate=True)
    except ValueError:
        raise UserError(f"image {number} is text, but not the base64 of an image") from None


def find_base(fingerprint: str, recorded_homes: list[str]) -> Path:
    """The folder of a base, from the first of several homes. Raises UserError."""
    named = os.environ.get(HOME_VARIABLE)
    homes = [*([named] if named else []), *recorded_homes, ".style-factory"]
    for home in homes:
        # A recorded home may be in an object store that is not reached from here.
        with contextlib.suppress(UserError):
            if (folder := Home.find(home).base_with(fingerprint)) is not None:
                return folder
    raise UserError(
        f"base {fingerprint} of this style is in none of {', '.join(dict.fromkeys(homes))}; "
        f"name the home that has it with {HOME_VARIABLE}"
    )


def _as_input_type(item: Any, image: Image.Image) -> Any:
    if isinstance(item, Image.Image):
        return image
    if isinstance(item, np.ndarray):
        return np.asarray(image)
    return png_bytes(image)
