"""`style-factory serve`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factory.cli.output import assignments, out, say, show
from factory.core.home import Home
from osasis.errors import UserError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser("serve", parents=[common], help="serve registered styles over HTTP")
    p.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    p.add_argument("--port", type=int, default=8000, help="port (default: %(default)s)")
    p.add_argument("--base", help="name of the base (default: the only one)")
    p.add_argument("--replicas", type=int, help="engines (default: 1)")
    p.add_argument("--config", type=Path, help="YAML or JSON file of settings (docs/serving.md)")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting, such as queue=32 or limits.styles=2",
    )  # fmt: skip
    p.add_argument("--keys", help="file of API keys; without it everybody is served")
    p.add_argument("--new-key", metavar="NAME", help="add a key to --keys, print it, and end")
    p.add_argument("--check", action="store_true", help="check everything, and end")
    p.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    if args.new_key:
        return _new_key(args)
    if not 1 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; it must lie in [1, 65535]")
    from serving.launch import check, run

    config = _config(args)
    if args.check:
        show(args, check(config, args.host, args.port))
        return 0

    def ready(facts: dict[str, Any]) -> None:
        if args.json:
            out(json.dumps(facts), flush=True)
        else:
            out(f"serving {facts['styles']} style(s) at {facts['url']}", flush=True)

    run(config, args.host, args.port, ready, say)
    return 0


def _config(args: argparse.Namespace) -> Any:
    from serving.config import ServeConfig, load_config

    data = load_config(args.config) if args.config else {}
    for name, value in assignments(args.set, "--set").items():
        part, _, rest = name.partition(".")
        if rest:
            data[part] = {**(data.get(part) or {}), rest: value}
        else:
            data[name] = value
    home = Home.find(args.home or data.get("home"))
    given = {
        "base": args.base,
        "replicas": args.replicas,
        "keys": args.keys,
        "home": str(home.path),
    }
    data |= {k: v for k, v in given.items() if v is not None}
    data.setdefault("log", str(home.path / "logs" / "serve.jsonl"))
    return ServeConfig.from_dict(data, str(args.config) if args.config else "serve")


def _new_key(args: argparse.Namespace) -> int:
    from serving.auth import new_key

    if not args.keys:
        raise UserError("--new-key needs --keys FILE, where its hash is kept")
    key = new_key(Path(args.keys), args.new_key)
    say("this key is shown once; only its hash is kept")
    show(args, {"name": args.new_key, "key": key})
    return 0
