"""Reads the provenance of an output file, and writes the command that reproduces the output."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from osasis.bundles.provenance import Provenance, read_provenance
from osasis.errors import UserError
from osasis.images.decoding import read_image_file
from osasis.mix import PHOTO_MASK, StyleShare

MAX_BYTES = 1 << 30


def provenance_of(path: Path, row: int = 0) -> Provenance:
    """The provenance of an image file, or of a row of a Parquet output.

    Raises UserError where the file cannot be read or holds no provenance.
    """
    if path.suffix.lower() == ".parquet":
        found = _row_provenance(path, row)
    else:
        found = read_provenance(read_image_file(path, MAX_BYTES), str(path))
    if found is None:
        raise UserError(
            f"{path}: no provenance; style-factory did not write it, wrote it with --provenance "
            "none, or it was removed"
        )
    return found


def _row_provenance(path: Path, row: int) -> Provenance | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["stylized"]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    if not 0 <= row < len(column):
        raise UserError(f"{path}: no row {row}; there are {len(column)}, from 0")
    return read_provenance(column[row].as_py(), f"{path}, row {row}")


def remake_command(provenance: Provenance) -> str:
    """The `style-factory stylize` command that produces the same bytes from the same photo.

    Placeholders: NAME.png for the file of mask NAME, MODEL for that of a segmenter, PHOTO for
    a photo of unknown name, OUTPUT.
    """
    parts = ["style-factory", "stylize", *_mix_options(provenance)]
    for name in sorted(provenance.masks):
        parts += _proposal_options(provenance) if name == PHOTO_MASK else []
        if name != PHOTO_MASK or provenance.mask_proposal is None:
            parts += ["--mask", f"{name}={name}.png"]
    options = {
        "--fit": provenance.fit,
        "--crop": str(provenance.crop) if provenance.crop else None,
        "--no-face": provenance.no_face,
        "--size": provenance.size,
        "--alpha": provenance.alpha,
        "--metadata": provenance.metadata,
        "--provenance": "full" if "/" in provenance.source else None,
        "--precision": provenance.arithmetic,
    }
    parts += [part for option, value in options.items() if value for part in (option, value)]
    if provenance.detail:
        parts.append("--detail")
    if provenance.format != "png":
        parts += ["--format", provenance.format]
        if provenance.quality is not None:
            parts += ["--quality", str(provenance.quality)]
    parts += ["--input", provenance.source or "PHOTO", "--output", "OUTPUT"]
    return shlex.join(parts)


def _proposal_options(provenance: Provenance) -> list[str]:
    """Options for a proposed mask; none where the mask is a file."""
    if (proposal := provenance.mask_proposal) is None:
        return []
    settings = dict(proposal["segmenter"])
    options = ["--mask", proposal["region"], "--segmenter", settings.pop("name")]
    if "model" in settings:
        settings["model"] = "MODEL"
    for name, value in settings.items():
        options += ["--segmenter-set", f"{name}={_option_text(value)}"]
    return options


def _mix_options(provenance: Provenance) -> list[str]:
    """Options for the mix with its styles' versions; omits fields at their defaults."""
    mix = provenance.mix
    fields = mix.changes()
    shares = [
        share.replace(style=used.reference)
        for share, used in zip(mix.styles, provenance.styles, strict=True)
    ]
    options = []
    if shares == [StyleShare(style=shares[0].style)]:
        options = ["--styles", shares[0].style]
    else:
        fields["styles"] = [
            {name: value for name, value in share.to_dict().items() if value is not None}
            for share in shares
        ]
    for name, value in fields.items():
        options += ["--mix", f"{name}={_option_text(value)}"]
    return options


def _option_text(value: Any) -> str:
    """Format a value for `--mix`: text that is not valid JSON as plain text, the rest as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value)
