"""`style-factory styles ...`: the registry."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from factory.cli.output import out, show
from factory.core.home import Home
from osasis.errors import UserError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("styles", help="registered styles").add_subparsers(
        required=True, metavar="COMMAND"
    )

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = sub.add_parser(name, parents=[common], help=text)
        p.set_defaults(run=run)
        return p

    p = command("list", _list, "all registered styles")
    p.add_argument("--all", action="store_true", help="every version, not the current one")
    p = command("show", _show, "one style's version")
    p.add_argument("style", help="a, a@alias or a:3")
    p = command("compare", _compare, "metrics and differing settings of versions side by side")
    p.add_argument("style", nargs="+", help="a, a@alias or a:3; a alone compares its versions")
    p = command("promote", _promote, "make a version champion")
    p.add_argument("style", help="a:3 or a@alias; plain a promotes its candidate")
    p = command("rollback", _rollback, "make the champion before this one champion again")
    p.add_argument("style")
    p = command("delete", _delete, "delete a version (a:3), or a style with all versions (a)")
    p.add_argument("style")
    p = command("export", _export, "write a version as a ZIP file or folder")
    p.add_argument("style", help="a, a@alias or a:3")
    p.add_argument("target", type=Path, help="FILE.zip, or a folder to make")
    p = command("import", _import, "register an exported style, or one of the published code")
    p.add_argument("source", help="exported ZIP or folder; with --checkpoint, the new style's id")
    p.add_argument("--id", help="register an exported style under another id")
    p.add_argument("--candidate", action="store_true", help="do not make it champion")
    p.add_argument("--checkpoint", type=Path, help="iter_N.pt of the published code")
    p.add_argument("--image", type=Path, help="the style image, with --checkpoint")
    p.add_argument("--counterpart", type=Path, help="its photo counterpart, with --checkpoint")
    p.add_argument("--base", help="name of the base, with --checkpoint (default: the only one)")
    p.add_argument("--licence", default="", help="licence note, with --checkpoint")


def _list(args: argparse.Namespace) -> int:
    from factory.registry import current_of, list_versions

    styles = list_versions(Home.find(args.home))
    chosen = [v for vs in styles.values() for v in (vs if args.all else [current_of(vs)])]
    rows = [{**_row(v), "versions": len(styles[v.style])} for v in chosen]
    if args.json:
        out(json.dumps({"styles": rows}, indent=2))
        return 0
    for r in rows:
        mark = ",".join(r["aliases"])
        out(f"{r['id']:32} version {r['version']:<4} {mark:10} base {r['base_name']}")
    if not rows:
        print("no style is registered yet", file=sys.stderr)
    return 0


def _show(args: argparse.Namespace) -> int:
    from factory.registry import Registry

    registry = Registry(Home.find(args.home))
    version = registry.resolve(args.style)
    run = registry.client.get_run(version.run_id)
    data = {
        **_row(version),
        "fingerprint": version.fingerprint,
        "base": version.base,
        "run": version.run_id,
        "folder": str(version.folder()),
        "gate": version.tags.get("gate", ""),
        "metrics": run.data.metrics,
        "settings": run.data.params,
    }
    show(args, data)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from factory.registry import Registry
    from osasis.metrics import METRICS

    registry = Registry(Home.find(args.home))
    if len(args.style) == 1:
        versions = registry.versions(args.style[0].partition(":")[0].partition("@")[0])
    else:
        versions = [registry.resolve(s) for s in args.style]
    runs = [registry.client.get_run(v.run_id).data for v in versions]
    names = [v.reference for v in versions]

    def rows(parts: list[dict[str, Any]], keys: list[str]) -> dict[str, dict[str, Any]]:
        return {k: {n: p.get(k) for n, p in zip(names, parts, strict=True)} for k in keys}

    keys = list(dict.fromkeys(k for r in runs for k in r.params))
    differing = [k for k in keys if len({r.params.get(k) for r in runs}) > 1]
    measured = [k for k in (*METRICS, "total") if any(k in r.metrics for r in runs)]
    data = {
        "versions": {v.reference: {**_row(v), "fingerprint": v.fingerprint} for v in versions},
        "metrics": rows([r.metrics for r in runs], measured),
        "settings": rows([r.params for r in runs], differing),
    }
    if args.json:
        out(json.dumps(data, indent=2))
        return 0
    width = max(len(n) for n in names) + 2
    out(f"{'':24}" + "".join(f"{n:>{width}}" for n in names))
    aliases = {"alias": {v.reference: ",".join(v.aliases) for v in versions}}
    for name, values in (aliases | data["metrics"] | data["settings"]).items():
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v or "-") for v in values.values()]
        out(f"{name:24}" + "".join(f"{v:>{width}}" for v in shown))
    return 0


def _promote(args: argparse.Namespace) -> int:
    from factory.registry import Registry

    show(args, _row(Registry(Home.find(args.home)).promote(args.style)))
    return 0


def _rollback(args: argparse.Namespace) -> int:
    from factory.registry import Registry

    show(args, _row(Registry(Home.find(args.home)).rollback(args.style)))
    return 0


def _delete(args: argparse.Namespace) -> int:
    from factory.registry import Registry

    gone = Registry(Home.find(args.home)).delete(args.style)
    show(args, {"deleted": [v.reference for v in gone]})
    return 0


def _export(args: argparse.Namespace) -> int:
    from factory.registry.bundles import export_style

    version = export_style(Home.find(args.home), args.style, args.target)
    show(args, {**_row(version), "target": str(args.target)})
    return 0


def _import(args: argparse.Namespace) -> int:
    home = Home.find(args.home)
    if args.checkpoint is None:
        given = [n for n in ("image", "counterpart", "base", "licence") if getattr(args, n)]
        if given:
            raise UserError(f"--{given[0]} goes with --checkpoint; give that too, or leave it out")
        from factory.registry.bundles import import_bundle

        version = import_bundle(home, Path(args.source), args.id, promote=not args.candidate)
        show(args, _row(version))
        return 0
    if args.image is None:
        raise UserError("--image is missing; give the style image with --checkpoint")
    from factory.registry.published_styles import import_style

    version = import_style(
        home,
        args.id or args.source,
        args.checkpoint,
        args.image,
        counterpart=args.counterpart,
        base=args.base,
        licence=args.licence,
    )
    show(args, _row(version))
    return 0


def _row(version: Any) -> dict[str, Any]:
    return {
        "id": version.style,
        "version": version.version,
        "aliases": list(version.aliases),
        "base_name": version.tags.get("base_name", ""),
        "tags": [t for t in version.tags.get("tags", "").split(",") if t],
        "licence": version.tags.get("licence", ""),
        "created_ms": version.created_ms,
    }
