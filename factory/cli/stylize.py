"""`style-factory stylize`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from factory.cli.output import assignments, out, positive, say
from factory.home import Home


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser("stylize", parents=[common], help="stylize a folder of photos")
    p.add_argument("--styles", required=True, help="comma-separated: a, b@champion, c:3")
    p.add_argument("--input", required=True, help="folder of photos, or one photo")
    p.add_argument("--output", required=True, help="folder for the images")
    p.add_argument("--fit", default="crop", help="how a photo meets the square: crop, pad, resize")
    p.add_argument(
        "--mix", action="append", default=[], metavar="NAME=VALUE",
        help="a mix parameter: strength, content_cutoff, structure, decode_steps, ...",
    )  # fmt: skip
    p.add_argument("--workers", type=int, help="actors (default: a GPU or CPU each)")
    p.set_defaults(run=_stylize)


def _stylize(args: argparse.Namespace) -> int:
    from pipelines.stylize import stylize

    result = stylize(
        [s.strip() for s in args.styles.split(",") if s.strip()],
        args.input,
        args.output,
        home=Home.find(args.home),
        mix=assignments(args.mix, "--mix"),
        fit=args.fit,
        workers=positive(args.workers, "--workers"),
        report=say,
    )
    if args.json:
        out(json.dumps(result.to_dict(), indent=2))
    else:
        for error in result.errors:
            out(f"{error['path']}: {error['reason']}")
        out(f"{result.images} image(s) in {result.output}")
    return 1 if result.errors else 0
