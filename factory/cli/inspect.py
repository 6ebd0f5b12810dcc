"""`style-factory inspect`: what made a stylized picture, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from factory.cli.options import HomeOption, JsonOption
from factory.cli.output import print_json, print_result
from osasis.errors import UserError

# Mix fields at their defaults need not be said again.
_USUAL: dict[str, Any] = {"blend": "weights", "strength": 1.0, "text_amount": 1.0, "seed": 0}


def inspect(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, or a Parquet output.")
    ],
    row: Annotated[int, typer.Option(min=0, help="Row of a Parquet output.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what made a stylized picture, and the command that makes the picture again."""
    found = _provenance(image, row)
    command = remake_command(found, image.name)
    if as_json:
        print_json({"provenance": {**found, "mix": json.loads(found["mix"])}, "command": command})
        return
    for name, value in found.items():
        print_result(f"{name}: {value}")
    print_result(f"again: {command}")


def _provenance(path: Path, row: int) -> dict[str, str]:
    """What the picture says of itself. Raises UserError where it says nothing."""
    from osasis.bundles.provenance import read_provenance
    from osasis.images.decoding import read_image_file

    if path.suffix.lower() == ".parquet":
        found = _of_table(path, row)
    else:
        found = read_provenance(read_image_file(path, 1 << 30), name=str(path))
    if not found.get("style") or not found.get("mix"):
        raise UserError(f"{path}: no provenance; style-factory did not write it, or it was removed")
    try:
        json.loads(found["mix"])
    except ValueError:
        raise UserError(f"{path}: its provenance is damaged (mix is not JSON)") from None
    return found


def _of_table(path: Path, row: int) -> dict[str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["stylized_provenance"]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    if not 0 <= row < len(column):
        raise UserError(f"{path}: no row {row}; there are {len(column)}, from 0")
    found: dict[str, str] = json.loads(column[row].as_py())
    return found


def remake_command(provenance: dict[str, str], name: str) -> str:
    """The call that makes this picture again from its photo."""
    mix = json.loads(provenance["mix"])
    styles = provenance["style"].split("+")
    parts = ["style-factory", "stylize"]
    fields = {
        k: v for k, v in mix.items() if k != "styles" and v is not None and v != _USUAL.get(k)
    }
    if len(styles) == 1:
        parts += ["--styles", styles[0]]
    else:
        shares = [
            {"style": reference, "weight": share["weight"]}
            for reference, share in zip(styles, mix["styles"], strict=True)
        ]
        fields["styles"] = shares
    for field, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value)
        parts += ["--mix", f"{field}={text}"]
    for option in ("fit", "no_face", "size", "metadata"):
        if option in provenance:
            parts += [f"--{option.replace('_', '-')}", provenance[option]]
    if provenance.get("detail") == "yes":
        parts.append("--detail")
    formats = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    if (kind := formats.get(Path(name).suffix.lower())) is not None:
        parts += ["--format", kind, "--quality", provenance.get("quality", "90")]
    parts += ["--input", provenance.get("source", "PHOTO"), "--output", "OUTPUT"]
    return shlex.join(parts)
