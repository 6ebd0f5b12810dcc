"""Masks of a corpus: one picture for each mask that a mix names, laid over every photo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

from osasis.errors import UserError
from osasis.images.decoding import load_image, png_bytes, read_image_file
from osasis.images.geometry import fit_square
from osasis.validation import InvalidInputError, Problem
from pipelines.job_spec import MaskSpec, TargetSpec

MAX_BYTES = 1 << 28


def read_masks(
    given: Mapping[str, str | os.PathLike[str]],
    targets: Iterable[TargetSpec],
    fit: str,
    square: int,
) -> dict[str, MaskSpec]:
    """Read the masks that mixes name, fitted to the base's square as the photos are.

    Raises InvalidInputError for masks that are named and not given or given and not named,
    UserError where a file cannot be read or faces are aligned.
    """
    named = {s.mask for t in targets for s in t.mix.styles if s.mask}
    problems = [
        Problem("mask", name, f"mask {name!r} is named in the mix and not given (--mask)")
        for name in sorted(named - set(given))
    ]
    problems += [
        Problem("mask", name, f"mask {name!r} is given, and the mix names no such mask")
        for name in sorted(set(given) - named)
    ]
    if problems:
        raise InvalidInputError("masks", problems)
    if named and fit == "align":
        raise UserError("fit align cuts out faces, which a mask cannot follow; choose another fit")
    return {name: _read(os.fspath(path), fit, square) for name, path in given.items()}


def _read(path: str, fit: str, square: int) -> MaskSpec:
    data = read_image_file(path, MAX_BYTES)
    grey = load_image(data, name=path).convert("L")
    return MaskSpec(
        sha256=hashlib.sha256(data).hexdigest(), png=png_bytes(fit_square(grey, square, fit))
    )
