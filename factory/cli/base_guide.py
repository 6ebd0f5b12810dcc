"""`style-factory base train-guide`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from factory.cli.output import fail, out


def add(sub: Any, common: argparse.ArgumentParser) -> None:
    """Register under ``style-factory base``. sub: its subparsers."""
    p = sub.add_parser(
        "train-guide",
        parents=[common],
        help="train a small open_clip guide on photos, painted looks and captions",
    )
    p.add_argument("--out", type=Path, required=True, help="folder for weights and configuration")
    p.add_argument("--images", type=Path, required=True, help="folder of photos")
    p.add_argument("--minutes", type=float, help="wall time of training, all runs together")
    p.add_argument("--steps", type=int, help="steps instead of minutes")
    p.add_argument("--config", type=Path, help="open_clip model configuration, MODEL.json")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--paintings", type=int, default=1500, help="looks to paint, three people each")
    p.add_argument("--batch", type=int, default=32, help="looks in a step")
    p.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    p.add_argument("--validation", type=Path, help="folder of other photos, to measure on")
    p.set_defaults(run=_train_guide)


def _train_guide(args: argparse.Namespace) -> int:
    from osasis.pretraining.budgeted_training import BudgetTooShortError
    from osasis.pretraining.train_guide import from_arguments

    try:
        report = from_arguments(args)
    except BudgetTooShortError as e:
        return fail(args, str(e), 1)
    if args.json:
        out(json.dumps(report, indent=2))
        return 0
    out(f"guide {report['model']} trained in {report['steps']} steps: {args.out}")
    for name, value in report.get("validation", {}).items():
        out(f"  {name:16} {value:.3f}")
    return 0
