"""The command line: `style-factory`.

Results go to standard output (with --json one JSON document), progress to standard error. The
exit code is 0 only where all that was asked is done; 1 where part of it failed; 2 for a mistake
in what was given. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from factory.home import Home
from osasis.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. No traceback for a user's mistake."""
    args = _parser().parse_args(argv)
    with _results_only_on_stdout():
        try:
            code = args.run(args)
        except UserError as e:
            code = _fail(args, str(e), 2)
        except KeyboardInterrupt:
            code = _fail(args, "stopped; the same command trains on where it can", 130)
        except Exception as e:
            if not _from_surroundings(e):
                raise
            from factory.work import describe_failure

            code = _fail(args, describe_failure(e), 1)
    return code


def _from_surroundings(error: Exception) -> bool:
    """Whether an error is the disk's, the network's, MLflow's or Ray's rather than ours."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("mlflow.", "ray."))


@contextlib.contextmanager
def _results_only_on_stdout() -> Iterator[None]:
    """Libraries and the processes that they start write notices to standard output; send those
    to standard error, and keep standard output for ``_out``."""
    global _results
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    _results = os.fdopen(os.dup(kept), "w", encoding="utf-8")
    try:
        yield
    finally:
        sys.stdout.flush()  # what was printed meanwhile still waits in Python's buffer
        _results.close()
        os.dup2(kept, 1)
        os.close(kept)
        _results = None


_results: TextIO | None = None


def _out(text: str) -> None:
    """A line of the result, to standard output."""
    print(text, file=_results or sys.stdout)


def _fail(args: argparse.Namespace, message: str, code: int) -> int:
    if getattr(args, "json", False):
        _out(json.dumps({"error": message}))
    print(f"error: {message}", file=sys.stderr)
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    from factory import __version__

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", help="state of this installation (default: ./.style-factory)")
    common.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser = argparse.ArgumentParser(
        prog="style-factory",
        description="One style image in, one registered style model out, for a whole catalog.",
    )
    parser.add_argument("--version", action="version", version=f"style-factory {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _train_parser(commands, common)
    _stylize_parser(commands, common)
    _styles_parser(commands, common)
    _base_parser(commands, common)
    _text_edit_parser(commands, common)
    return parser


def _train_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    p = commands.add_parser("train", parents=[common], help="train a catalog of style images")
    p.add_argument("catalog", help="YAML file, folder of images, or one image")
    p.add_argument("--base", help="name of the base (default: the only one)")
    p.add_argument("--preset", default="fast", help="reference, default or fast")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a training setting"
    )
    p.add_argument("--slots", type=int, help="styles trained at once (default: a GPU or CPU each)")
    p.add_argument("--previews", help="folder of photos for the gallery (default: the base's own)")
    p.set_defaults(run=_train)


def _stylize_parser(commands: Any, common: argparse.ArgumentParser) -> None:
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


def _styles_parser(commands: Any, common: argparse.ArgumentParser) -> None:
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


def _text_edit_parser(commands: Any, common: argparse.ArgumentParser) -> None:
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


def _base_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    sub = commands.add_parser("base", help="bases: import, list, info").add_subparsers(
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
    p = sub.add_parser("list", parents=[common], help="all bases")
    p.set_defaults(run=_base_list)
    p = sub.add_parser("info", parents=[common], help="what a base is made of")
    p.add_argument("name", nargs="?")
    p.set_defaults(run=_base_info)


def _train(args: argparse.Namespace) -> int:
    from factory.train import train

    result = train(
        args.catalog,
        home=Home.find(args.home),
        base=args.base,
        preset=args.preset,
        overrides=_assignments(args.set, "--set"),
        slots=_positive(args.slots, "--slots"),
        previews=args.previews,
        report=_say,
    )
    if args.json:
        _out(json.dumps(result.to_dict(), indent=2))
    else:
        for s in result.styles:
            what = s.reason if s.state == "failed" else f"version {s.version}"
            took = f" in {s.seconds:.0f} s" if s.seconds is not None else ""
            _out(f"{s.id:32} {s.state:12} {what}{took}")
        _out(f"gallery: {result.gallery}")
    return 1 if result.failed else 0


def _stylize(args: argparse.Namespace) -> int:
    from pipelines.stylize import stylize

    result = stylize(
        [s.strip() for s in args.styles.split(",") if s.strip()],
        args.input,
        args.output,
        home=Home.find(args.home),
        mix=_assignments(args.mix, "--mix"),
        fit=args.fit,
        workers=_positive(args.workers, "--workers"),
        report=_say,
    )
    if args.json:
        _out(json.dumps(result.to_dict(), indent=2))
    else:
        for error in result.errors:
            _out(f"{error['path']}: {error['reason']}")
        _out(f"{result.images} image(s) in {result.output}")
    return 1 if result.errors else 0


def _styles_list(args: argparse.Namespace) -> int:
    from factory.registry import CHAMPION, Registry

    registry = Registry(Home.find(args.home))
    rows = [_style_row(registry.current(name)) for name in registry.styles()]
    if args.json:
        _out(json.dumps({"styles": rows}, indent=2))
        return 0
    for r in rows:
        mark = CHAMPION if CHAMPION in r["aliases"] else ""
        _out(f"{r['id']:32} version {r['version']:<4} {mark:10} base {r['base_name']}")
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
    _print(args, data)
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
    _print(args, _style_row(version))
    return 0


def _text_edit(args: argparse.Namespace) -> int:
    from factory.edits import make_text_edit

    home = Home.find(args.home)
    edit = make_text_edit(
        home,
        args.name,
        args.source,
        args.target,
        base=args.base,
        photos=args.photos,
        iterations=_positive(args.iterations, "--iterations") or 1,
    )
    _print(
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


def _base_import(args: argparse.Namespace) -> int:
    from factory.bases import GuideChoice, import_base

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
        _out(json.dumps(info, indent=2))
    else:
        _out(f"base {info['name']} imported (fingerprint {info['fingerprint']})")
    return 0


def _base_list(args: argparse.Namespace) -> int:
    from factory.bases import list_bases

    home = Home.find(args.home)
    bases = list_bases(home)
    if args.json:
        _out(json.dumps({"bases": bases}, indent=2))
        return 0
    for b in bases:
        size = b["config"]["image_size"]
        _out(f"{b['name']:32} {size} px  {b['bytes'] / 1e6:7.1f} MB  {b['fingerprint']}")
    if not bases:
        print(f"no base in {home.bases}", file=sys.stderr)
    return 0


def _base_info(args: argparse.Namespace) -> int:
    from factory.bases import describe_base

    _print(args, describe_base(Home.find(args.home), args.name))
    return 0


def _print(args: argparse.Namespace, data: dict[str, Any]) -> None:
    if args.json:
        _out(json.dumps(data, indent=2))
        return
    for key, value in data.items():
        if isinstance(value, dict):
            _out(f"{key}:")
            for k, v in value.items():
                _out(f"  {k}: {v}")
        else:
            _out(f"{key}: {value}")


def _assignments(items: list[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they are JSON, else as text."""
    out: dict[str, Any] = {}
    for item in items:
        name, found, value = item.partition("=")
        if not found or not name:
            raise UserError(f"{option} {item!r}: write NAME=VALUE")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def _positive(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise UserError(f"{option} is {value}; it must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
