"""`style-factory base ...`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from factory.cli import base_guide
from factory.cli.output import assignments, out, positive, say, show
from factory.core.home import Home
from osasis.errors import UserError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("base", help="bases: train, import, evaluate, list").add_subparsers(
        required=True, metavar="COMMAND"
    )
    p = sub.add_parser("import", parents=[common], help="convert official checkpoints")
    p.add_argument("name")
    p.add_argument("--config", required=True, help="ffhq256, horse128, portraits64 or a JSON file")
    p.add_argument("--diffae", required=True, type=Path, help="DiffAE checkpoint with latent net")
    p.add_argument("--latent-stats", type=Path, help="latent.pkl that came with it")
    p.add_argument("--prior", type=Path, help="P2 checkpoint of the photo prior")
    p.add_argument("--guide", default="statistics", choices=("statistics", "open_clip"))
    p.add_argument("--guide-stages", default="0,1,2,3", help="statistics: stages of the net, 0-5")
    p.add_argument("--guide-grid", type=int, default=1, help="statistics: cells a side")
    p.add_argument("--guide-model", default="ViT-B-32", help="open_clip model name")
    p.add_argument("--guide-weights", default="openai", help="open_clip tag or local checkpoint")
    p.add_argument("--guide-config", type=Path, help="open_clip model configuration, MODEL.json")
    p.add_argument("--perceptual", default="vgg", help="LPIPS net: vgg or alex")
    p.add_argument("--perceptual-weights", type=Path, help="LPIPS weights (default: download)")
    p.add_argument("--photos", type=Path, help="folder of photos of this domain to keep with it")
    p.add_argument("--licence", default="", help="licence note")
    p.add_argument("--replace", action="store_true", help="replace another base of this name")
    p.set_defaults(run=_base_import)
    p = sub.add_parser("train", parents=[common], help="train a base on photos of your own")
    p.add_argument("name")
    p.add_argument("--images", required=True, help="folder or URI of photos of one domain")
    p.add_argument("--config", required=True, help="portraits64, ... or a JSON file")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the training"
    )
    p.add_argument("--start", type=Path, help="DiffAE checkpoint to begin with")
    p.add_argument("--workers", type=int, default=1, help="workers that share every batch")
    p.add_argument("--minutes", type=float, help="stop after so long; the same command continues")
    p.add_argument("--like", help="base whose guide and perceptual net it takes")
    p.add_argument("--licence", default="", help="licence note")
    p.add_argument("--replace", action="store_true", help="replace another base of this name")
    p.set_defaults(run=_base_train)
    p = sub.add_parser("evaluate", parents=[common], help="how good a base is, on photos")
    p.add_argument("name", nargs="?")
    p.add_argument("--images", required=True, help="photos that it was not trained on")
    p.add_argument("--steps", type=int, default=100, help="steps of a full schedule")
    p.add_argument("--samples", type=int, default=0, help="samples for the Frechet distance")
    p.add_argument("--limit", type=int, help="use the first so many photos")
    p.add_argument("--lpips", choices=("vgg", "alex"), help="measure with LPIPS of this net")
    p.add_argument("--lpips-weights", type=Path, help="its weights (default: download)")
    p.add_argument("--output", type=Path, help="folder for the pictures of it")
    p.set_defaults(run=_base_evaluate)
    base_guide.add(sub, common)
    p = sub.add_parser("list", parents=[common], help="all bases")
    p.set_defaults(run=_base_list)
    p = sub.add_parser("info", parents=[common], help="what a base is made of")
    p.add_argument("name", nargs="?")
    p.set_defaults(run=_base_info)


def _base_import(args: argparse.Namespace) -> int:
    from factory.core.bases import GuideChoice, import_base

    stages = [s.strip() for s in args.guide_stages.split(",")]
    if not all(s.isdigit() for s in stages):
        raise UserError(f"--guide-stages is {args.guide_stages!r}; give numbers such as 0,1,2,3")
    guide = GuideChoice(
        kind=args.guide,
        stages=tuple(int(s) for s in stages),
        grid=args.guide_grid,
        model=args.guide_config.stem if args.guide_config else args.guide_model,
        pretrained=args.guide_weights,
        config=args.guide_config,
    )
    info = import_base(
        Home.find(args.home),
        args.name,
        config=args.config,
        diffae=args.diffae,
        latent_stats=args.latent_stats,
        prior=args.prior,
        guide=guide,
        perceptual_net=args.perceptual,
        perceptual_weights=args.perceptual_weights,
        photos=args.photos,
        licence=args.licence,
        replace=args.replace,
    )
    if args.json:
        out(json.dumps(info, indent=2))
    else:
        out(f"base {info['name']} imported (fingerprint {info['fingerprint']})")
    return 0


def _base_train(args: argparse.Namespace) -> int:
    from pipelines.base_training import train_base

    run = train_base(
        args.name,
        args.images,
        config=args.config,
        home=Home.find(args.home),
        overrides=assignments(args.set, "--set"),
        start=args.start,
        workers=positive(args.workers, "--workers") or 1,
        minutes=args.minutes,
        like=args.like,
        licence=args.licence,
        replace=args.replace,
        report=say,
    )
    if args.json:
        out(json.dumps({"finished": run.finished, "left_out": run.left_out, "base": run.info}))
    elif run.info is not None:
        out(f"base {args.name} trained (fingerprint {run.info['fingerprint']})")
    else:
        out(f"stopped after {args.minutes:g} minute(s); the same command continues")
    return 0 if run.finished else 1


def _base_evaluate(args: argparse.Namespace) -> int:
    from osasis.bundles.base import load_base
    from osasis.guides.perceptual import PerceptualNet
    from osasis.pretraining.evaluate_base import evaluate_base, save_evaluation_grids
    from osasis.pretraining.photo_set import read_photo_set

    base = load_base(Home.find(args.home).base_folder(args.name))
    photos = read_photo_set(args.images, base.config.image_size, say).images(args.limit)
    net = PerceptualNet(args.lpips, args.lpips_weights) if args.lpips else None
    evaluation, samples = evaluate_base(
        base,
        photos,
        steps=positive(args.steps, "--steps") or 1,
        samples=args.samples,
        perceptual=net,
        report=say,
    )
    if args.output is not None:
        save_evaluation_grids(base, photos[:8], samples, args.steps, args.output)
    show(args, {"base": base.name, **evaluation.to_dict()})
    return 0


def _base_list(args: argparse.Namespace) -> int:
    from factory.core.bases import list_bases

    home = Home.find(args.home)
    bases = list_bases(home)
    if args.json:
        out(json.dumps({"bases": bases}, indent=2))
        return 0
    for b in bases:
        size = b["config"]["image_size"]
        out(f"{b['name']:32} {size} px  {b['bytes'] / 1e6:7.1f} MB  {b['fingerprint']}")
    if not bases:
        print(f"no base in {home.bases}", file=sys.stderr)
    return 0


def _base_info(args: argparse.Namespace) -> int:
    from factory.core.bases import describe_base

    show(args, describe_base(Home.find(args.home), args.name))
    return 0
