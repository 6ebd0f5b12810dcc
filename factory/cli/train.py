"""`style-factory train` and `style-factory text-edit`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factory.cli.output import assignments, out, positive, show
from factory.core.home import Home


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser("train", parents=[common], help="train a catalog of style images")
    p.add_argument("catalog", help="YAML or CSV file, folder of images, or one image")
    p.add_argument("--base", help="name of the base (default: the only one)")
    p.add_argument("--preset", default="fast", help="reference, default or fast")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting"
    )
    p.add_argument("--slots", type=int, help="styles trained at once (default: a GPU or CPU each)")
    p.add_argument("--gpus-per-slot", type=float, help="GPUs each slot takes, such as 0.5")
    p.add_argument("--retries", type=int, default=2, help="how often a style is tried again")
    p.add_argument(
        "--retry-on", default="died,memory,error", metavar="KINDS",
        help="failures that are retried: died, memory, error, diverged, image, input",
    )  # fmt: skip
    p.add_argument(
        "--gate", action="append", default=[], metavar="METRIC<=X",
        help="a style that misses it is registered as candidate, not champion",
    )  # fmt: skip
    p.add_argument("--contents", help="folder of photos to train on instead of the base's own")
    p.add_argument(
        "--progress", default="auto",
        help="auto (a table in a terminal, else JSON lines), table, lines, json or none",
    )  # fmt: skip
    p.add_argument("--previews", help="folder of photos for the gallery (default: the base's own)")
    p.set_defaults(run=_train)


def add_text_edit(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "text-edit",
        parents=[common],
        help="make a direction between two texts, for --mix text_edit",
    )
    p.add_argument("name")
    p.add_argument("--source", required=True, help='what photos show, such as "a face"')
    p.add_argument("--target", required=True, help='what they should show: "a smiling face"')
    p.add_argument("--base", help="name of the base (default: the only one)")
    p.add_argument("--photos", type=Path, help="folder of photos (default: the base's own)")
    p.add_argument("--iterations", type=int, default=100)
    p.set_defaults(run=_text_edit)


def _train(args: argparse.Namespace) -> int:
    from factory.training.run import train

    result = train(
        args.catalog,
        home=Home.find(args.home),
        base=args.base,
        preset=args.preset,
        overrides=assignments(args.set, "--set"),
        slots=positive(args.slots, "--slots"),
        gpus_per_slot=args.gpus_per_slot,
        retries=args.retries,
        retry_on=[k.strip() for k in args.retry_on.split(",") if k.strip()],
        gate=args.gate,
        contents=args.contents,
        previews=args.previews,
        progress=args.progress,
    )
    out(json.dumps(result.to_dict(), indent=2) if args.json else result.summary())
    return 1 if result.failed else 0


def _text_edit(args: argparse.Namespace) -> int:
    from factory.text_edits import make_text_edit

    home = Home.find(args.home)
    edit = make_text_edit(
        home,
        args.name,
        args.source,
        args.target,
        base=args.base,
        photos=args.photos,
        iterations=positive(args.iterations, "--iterations") or 1,
    )
    show(
        args,
        {
            "name": args.name,
            "source": edit.source,
            "target": edit.target,
            "folder": str(home.text_edits / args.name),
            "loss_first": edit.history[0],
            "loss_last": edit.history[-1],
        },
    )
    return 0
