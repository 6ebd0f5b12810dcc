"""`style-factory stylize`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from factory.cli.output import assignments, out, positive, say
from factory.core.home import Home
from osasis.errors import UserError

DESCRIPTION = """\
Stylize a corpus of photos in registered styles. Killed anywhere, the same command finishes what
is missing. Photos that cannot be stylized are listed in OUTPUT/errors.parquet.
"""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "stylize", parents=[common], help="stylize a corpus of photos", description=DESCRIPTION
    )
    p.add_argument("--styles", default="", help="comma-separated: a, b@champion, c:3")
    p.add_argument(
        "--input", required=True,
        help="folder, glob, list (.txt), photo, Parquet, or a URI of one of these",
    )  # fmt: skip
    p.add_argument("--output", required=True, help="folder for the images and the job's state")
    _add_pictures(p)
    p.add_argument(
        "--mix", action="append", default=[], metavar="NAME=VALUE",
        help="a mix parameter: strength, content_cutoff, structure, decode_steps, ...",
    )  # fmt: skip
    p.add_argument("--mix-file", metavar="FILE.json", help="mix parameters; --mix goes before it")
    p.add_argument("--image-column", help="of a Parquet input: the column of bytes or paths")
    p.add_argument("--workers", type=int, help="model actors (default: a GPU or CPU each)")
    p.add_argument("--gpus-per-worker", type=float, help="0.5: two model actors a GPU")
    p.add_argument("--readers", type=int, help="photos read at a time (default: half the CPUs)")
    p.add_argument("--max-errors", type=int, metavar="N", help="stop after more than N errors")
    p.add_argument(
        "--timeout-per-image", type=float, metavar="S",
        help="seconds for reading a photo, and for writing its outputs",
    )  # fmt: skip
    p.add_argument(
        "--retry-errors", action="store_true", help="try again what failed in an earlier run"
    )
    p.add_argument(
        "--no-contact-sheet", dest="contact_sheet", action="store_false",
        help="write no contact.html",
    )  # fmt: skip
    p.set_defaults(run=_stylize)


def _add_pictures(p: argparse.ArgumentParser) -> None:
    """Options that decide what the outputs look like."""
    p.add_argument(
        "--fit", default="crop",
        help="how a photo meets the base's square: crop, pad, resize, or align (find faces)",
    )  # fmt: skip
    p.add_argument(
        "--no-face",
        default="error",
        help="fit align without a face: error (an error row), crop, keep (the photo as it is)",
    )
    p.add_argument(
        "--size", default="photo", help="of the outputs: photo (its own) or base (the square)"
    )
    p.add_argument(
        "--detail", action="store_true", help="carry the style up to the photo's resolution"
    )
    p.add_argument("--format", default="png", help="of the outputs: png, jpeg, webp, parquet")
    p.add_argument("--encoding", help="of images in Parquet: png (default), jpeg, webp")
    p.add_argument("--quality", type=int, default=90, help="of JPEG and WebP, 1 to 100")
    p.add_argument("--metadata", default="strip", help="the photo's EXIF: strip or keep")


def _stylize(args: argparse.Namespace) -> int:
    from pipelines import stylize

    if args.max_errors is not None and args.max_errors < 0:
        raise UserError(f"--max-errors is {args.max_errors}; it must be at least 0")
    for option in ("timeout_per_image", "gpus_per_worker"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UserError(f"--{option.replace('_', '-')} is {value:g}; it must be above 0")
    terminal = sys.stderr.isatty()
    try:
        result = stylize(
            [s.strip() for s in args.styles.split(",") if s.strip()],
            args.input,
            args.output,
            home=Home.find(args.home),
            mix=assignments(args.mix, "--mix"),
            mix_file=args.mix_file,
            fit=args.fit,
            size=args.size,
            detail=args.detail,
            format=args.format,
            encoding=args.encoding,
            quality=args.quality,
            metadata=args.metadata,
            no_face=args.no_face,
            image_column=args.image_column,
            workers=positive(args.workers, "--workers"),
            readers=positive(args.readers, "--readers"),
            gpus_per_worker=args.gpus_per_worker,
            max_errors=args.max_errors,
            timeout_per_image=args.timeout_per_image,
            retry_errors=args.retry_errors,
            contact_sheet=args.contact_sheet,
            report=_to_terminal if terminal else say,
            terminal=terminal,
        )
    except KeyboardInterrupt:
        message = "stopped; the same command goes on where this one ended"
        if args.json:
            out(json.dumps({"error": message}))
        say(message)
        return 130
    if args.json:
        out(json.dumps(result.to_dict(), indent=2))
    else:
        _show(result)
    return 1 if result.errors or result.stopped else 0


def _show(result: Any) -> None:
    """Each bad photo once, however many styles it lacks."""
    told: dict[tuple[str, str], None] = {(e["path"], e["reason"]): None for e in result.errors}
    for path, reason in list(told)[:50]:
        out(f"{path}: {reason}")
    if len(told) > 50:
        out(f"... and {len(told) - 50} more; all are in {result.output / 'errors.parquet'}")
    out(f"{result.images} image(s) in {result.output}")


def _to_terminal(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
