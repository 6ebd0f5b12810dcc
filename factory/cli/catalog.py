"""`style-factory catalog ...`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory.cli.output import assignments, out


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("catalog", help="catalogs: check, schema").add_subparsers(
        required=True, metavar="COMMAND"
    )
    p = sub.add_parser("check", parents=[common], help="everything that is wrong with a catalog")
    p.add_argument("catalog", help="YAML or CSV file, folder of images, or one image")
    p.add_argument("--preset", default="fast", help="reference, default or fast")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting"
    )
    p.set_defaults(run=_check)
    p = sub.add_parser("schema", parents=[common], help="the JSON Schema of YAML catalogs")
    p.set_defaults(run=_schema)


def _check(args: argparse.Namespace) -> int:
    from factory.catalog import check_catalog

    found = check_catalog(Path(args.catalog), args.preset, assignments(args.set, "--set"))
    if args.json:
        problems = [asdict(p) for p in found.problems]
        data = {"catalog": found.path, "styles": len(found.entries), "problems": problems}
        out(json.dumps(data, indent=2))
    else:
        for problem in found.problems:
            out(str(problem))
        out(f"{len(found.entries)} style(s), {len(found.problems)} problem(s)")
    return 1 if found.problems else 0


def _schema(args: argparse.Namespace) -> int:
    from factory.catalog.schema import shipped_schema

    out(shipped_schema().rstrip())
    return 0
