"""`style-factory styles ...`: the registry."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from factory.cli.output import out, show
from factory.home import Home


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("styles", help="registered styles").add_subparsers(
        required=True, metavar="COMMAND"
    )
    p = sub.add_parser("list", parents=[common], help="all registered styles")
    p.set_defaults(run=_styles_list)
    p = sub.add_parser("show", parents=[common], help="one style's version")
    p.add_argument("style", help="a, a@alias or a:3")
    p.set_defaults(run=_styles_show)
    p = sub.add_parser("import", parents=[common], help="register a style of the published code")
    p.add_argument("id")
    p.add_argument("--checkpoint", required=True, type=Path, help="iter_N.pt")
    p.add_argument("--image", required=True, type=Path, help="the style image")
    p.add_argument("--counterpart", type=Path, help="its photo counterpart")
    p.add_argument("--base", help="name of the base (default: the only one)")
    p.add_argument("--licence", default="", help="licence note")
    p.set_defaults(run=_styles_import)


def _styles_list(args: argparse.Namespace) -> int:
    from factory.registry import CHAMPION, Registry

    registry = Registry(Home.find(args.home))
    rows = [_style_row(registry.current(name)) for name in registry.styles()]
    if args.json:
        out(json.dumps({"styles": rows}, indent=2))
        return 0
    for r in rows:
        mark = CHAMPION if CHAMPION in r["aliases"] else ""
        out(f"{r['id']:32} version {r['version']:<4} {mark:10} base {r['base_name']}")
    if not rows:
        print("no style is registered yet", file=sys.stderr)
    return 0


def _styles_show(args: argparse.Namespace) -> int:
    from factory.registry import Registry

    registry = Registry(Home.find(args.home))
    version = registry.resolve(args.style)
    run = registry.client.get_run(version.run_id)
    data = {
        **_style_row(version),
        "fingerprint": version.fingerprint,
        "base": version.base,
        "run": version.run_id,
        "folder": str(version.folder()),
        "metrics": run.data.metrics,
        "settings": run.data.params,
    }
    show(args, data)
    return 0


def _styles_import(args: argparse.Namespace) -> int:
    from factory.style_import import import_style

    version = import_style(
        Home.find(args.home),
        args.id,
        args.checkpoint,
        args.image,
        counterpart=args.counterpart,
        base=args.base,
        licence=args.licence,
    )
    show(args, _style_row(version))
    return 0


def _style_row(version: Any) -> dict[str, Any]:
    return {
        "id": version.style,
        "version": version.version,
        "aliases": list(version.aliases),
        "base_name": version.tags.get("base_name", ""),
        "tags": [t for t in version.tags.get("tags", "").split(",") if t],
        "licence": version.tags.get("licence", ""),
        "created_ms": version.created_ms,
    }
