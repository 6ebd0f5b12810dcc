"""`style-factory slots ...`: the slots of a run that is training."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factory.cli.output import positive, show
from factory.core.home import Home
from osasis.errors import UserError, did_you_mean


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("slots", help="slots of a run: add, show").add_subparsers(
        required=True, metavar="COMMAND"
    )
    p = sub.add_parser("add", parents=[common], help="give a run that is training more slots")
    p.add_argument("job", help="its name (train-...), or latest")
    p.add_argument("count", type=int)
    p.set_defaults(run=_add)
    p = sub.add_parser("show", parents=[common], help="what a run's styles are at")
    p.add_argument("job", help="its name (train-...), or latest")
    p.set_defaults(run=_show)


def _add(args: argparse.Namespace) -> int:
    from factory.training.slots import add_slots

    count = positive(args.count, "count") or 1
    job = _job(Home.find(args.home), args.job)
    show(args, {"job": job.name, "slots": add_slots(job, count)})
    return 0


def _show(args: argparse.Namespace) -> int:
    from factory.training.slots import SLOTS

    job = _job(Home.find(args.home), args.job)
    queue = job / "queue.json"
    states = json.loads(queue.read_text()) if queue.is_file() else {}
    slots = json.loads((job / SLOTS).read_text())["slots"] if (job / SLOTS).is_file() else 0
    styles = {k: s["state"] for k, s in states.items()}
    show(args, {"job": job.name, "slots": slots, "styles": styles})
    return 0


def _job(home: Home, name: str) -> Path:
    names = sorted(p.name for p in home.jobs.glob("train-*") if p.is_dir())
    if not names:
        raise UserError(f"no job in {home.jobs}; start one with `style-factory train CATALOG`")
    if name == "latest":
        return home.jobs / names[-1]
    if name not in names:
        hint = did_you_mean(name, names) or f" (latest: {names[-1]})"
        raise UserError(f"unknown job {name!r}{hint}")
    return home.jobs / name
