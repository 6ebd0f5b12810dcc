"""Masks of a corpus job: for all photos, and one of each photo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from factory.core.uris import is_uri, redact
from osasis.errors import UserError
from osasis.images.decoding import png_bytes, read_image_file
from osasis.images.masks import read_mask, refuse_align
from osasis.images.photo_options import PhotoOptions
from osasis.mix import PHOTO_MASK
from osasis.segmenting import MaskProposal
from osasis.validation import InvalidInputError, Problem
from pipelines.job_spec import MaskSpec, PhotoMasks, TargetSpec
from pipelines.photo_listing import mask_table
from pipelines.source import Source, open_source

MAX_BYTES = 1 << 28


def read_masks(
    given: Mapping[str, str | os.PathLike[str]],
    targets: Iterable[TargetSpec],
    options: PhotoOptions,
    of_photos: bool = False,
) -> dict[str, MaskSpec]:
    """Read the masks of all photos.

    given: files by mask name. of_photos: each photo has a mask of its own, ``PHOTO_MASK``. Raises
    InvalidInputError if the names differ from those in the targets' mixes; UserError for an
    unreadable file, or masks with fit ``align``.
    """
    named = {s.mask for t in targets for s in t.mix.styles if s.mask}
    files = set(given) | ({PHOTO_MASK} if of_photos else set())
    problems = [
        Problem("mask", name, f"the mix names mask {name!r}, but no file is given (--mask)")
        for name in sorted(named - files)
    ]
    problems += [
        Problem("mask", name, f"a file is given for mask {name!r}, but no mix names this mask")
        for name in sorted(files - named)
    ]
    if of_photos and PHOTO_MASK in given:
        message = f"mask {PHOTO_MASK!r} is the mask of each photo; give the file another name"
        problems.append(Problem("mask", PHOTO_MASK, message))
    if problems:
        raise InvalidInputError("masks", problems)
    if files:
        refuse_align(options)
    return {name: _read(os.fspath(path)) for name, path in given.items()}


def _read(path: str) -> MaskSpec:
    data = read_image_file(path, MAX_BYTES)
    return MaskSpec(sha256=hashlib.sha256(data).hexdigest(), png=png_bytes(read_mask(data, path)))


def masks_of_photos(
    corpus: Source,
    region: str | None = None,
    segmenter: Mapping[str, Any] | None = None,
    save: str | os.PathLike[str] | None = None,
) -> PhotoMasks | None:
    """Where each photo has a mask of its own from; None where it has none.

    region, segmenter: of ``MaskProposal``. save: folder for the masks. Raises UserError.
    """
    folder = _save_folder(save)
    if region is not None:
        if corpus.masks is not None:
            raise UserError(
                f"masks are named both by --mask {region} and by --masks or in the input; name "
                "them once"
            )
        return _proposed(region, dict(segmenter or {}), folder)
    if segmenter:
        raise UserError(
            "a segmenter is named, but no mask that it shall propose; add --mask subject, "
            "background, face or hair"
        )
    if corpus.masks is not None:
        return PhotoMasks(column=corpus.mask_column, save=folder)
    if folder is not None:
        raise UserError("--save-masks: the photos have no masks; add --mask subject or --masks DIR")
    return None


def _save_folder(given: str | os.PathLike[str] | None) -> str | None:
    """The absolute path of ``--save-masks``. Raises UserError for a URI."""
    if given is None:
        return None
    if is_uri(os.fspath(given)):
        raise UserError(f"--save-masks {redact(os.fspath(given))}: give a local folder")
    return os.path.abspath(given)  # noqa: PTH100


def _proposed(region: str, segmenter: dict[str, Any], save: str | None) -> PhotoMasks:
    """Masks that a segmenter proposes, whose model can be read. Raises UserError."""
    for name in ("model", "clip"):
        given = segmenter.get(name)
        if isinstance(given, str) and (name == "model" or os.path.exists(given)):  # noqa: PTH110
            segmenter[name] = os.path.abspath(given)  # noqa: PTH100  # for other processes
    proposal = MaskProposal.parse({"region": region, "segmenter": segmenter})
    proposal.segmenter.check(proposal.region)
    return PhotoMasks(proposal=proposal, proposal_identity=proposal.identity(), save=save)


def photo_mask_files(given: str | os.PathLike[str], keys: Sequence[bytes]) -> pa.Table:
    """The mask of each photo in a folder or URI: a ``mask_table``.

    keys: of the photos. A mask has its photo's path below the folder, with any image suffix in
    place of the photo's or after it. Raises UserError where the folder cannot be listed.
    """
    place = redact(os.fspath(given))
    source = open_source(given)
    if source.kind not in ("folder", "uri"):
        raise UserError(f"--masks {place}: is a {source.kind}; give a folder of masks")
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(source.listing["key"].to_pylist()):
        rows.setdefault(_stem(key), []).append(row)
    found = [rows.get(key) or rows.get(_stem(key)) or [] for key in keys]
    names = source.listing["key"].to_pylist()
    problems = [
        _problem(key, [names[r] for r in of], place) for key, of in zip(keys, found, strict=True)
    ]
    chosen = [of[0] if len(of) == 1 else None for of in found]
    columns = (source.listing[name].to_pylist() for name in ("path", "size", "mtime"))
    paths, sizes, times = ([None if r is None else c[r] for r in chosen] for c in columns)
    return mask_table(paths, list(zip(sizes, times, strict=True)), problems)


def _stem(key: bytes) -> bytes:
    return os.path.splitext(key)[0]  # noqa: PTH122  # many files


def _problem(key: bytes, found: list[bytes], place: str) -> str | None:
    """Why a photo has no mask; None where it has one."""
    stem = PurePosixPath(os.fsdecode(_stem(key)))
    if not found:
        return f"no mask {stem}.png in {place} (nor with another image suffix)"
    if len(found) == 1:
        return None
    several = ", ".join(PurePosixPath(os.fsdecode(name)).name for name in sorted(found))
    return f"several masks in {place}: {several}; keep one of them"
