"""`style-factory styles ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.cli.calls import Command, Group
from factory.cli.options import (
    INPUTS,
    OUTPUTS,
    BaseOption,
    HomeOption,
    JsonOption,
    LicenceOption,
    find_home,
    option,
)
from factory.cli.output import print_fields, print_json, print_progress, print_result
from osasis.errors import UserError

if TYPE_CHECKING:
    from factory.registry import StyleVersion

app = typer.Typer(cls=Group, help="List, compare, promote, export and import registered styles.")

StyleArgument = Annotated[str, typer.Argument(metavar="STYLE", help="a, a@alias or a:3.")]


@app.command("list", cls=Command)
def list_styles(
    every_version: Annotated[
        bool, typer.Option("--all", help="List every version instead of the current ones.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all registered styles."""
    from factory.registry import current_of, list_versions

    styles = list_versions(find_home(home))
    chosen = [v for vs in styles.values() for v in (vs if every_version else [current_of(vs)])]
    rows = [{**version_fields(v), "versions": len(styles[v.style])} for v in chosen]
    if as_json:
        print_json({"styles": rows})
        return
    for r in rows:
        aliases = ",".join(r["aliases"])
        print_result(f"{r['id']:32} version {r['version']:<4} {aliases:10} base {r['base_name']}")
    if not rows:
        print_progress("no style is registered yet")


@app.command(cls=Command)
def show(style: StyleArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a version with its metrics and settings."""
    from factory.registry import Registry

    registry = Registry(find_home(home))
    version = registry.resolve(style)
    run = registry.client.get_run(version.run_id)
    document = {
        **version_fields(version),
        "fingerprint": version.fingerprint,
        "base": version.base,
        "run": version.run_id,
        "folder": str(version.folder()),
        "gate": version.tags.get("gate", ""),
        "metrics": run.data.metrics,
        "settings": run.data.params,
    }
    print_fields(document, as_json)


@app.command(cls=Command)
def compare(
    styles: Annotated[
        list[str],
        typer.Argument(metavar="STYLE", help="a, a@alias or a:3; a alone compares its versions."),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show metrics and differing settings of versions side by side."""
    from factory.methods import all_metrics
    from factory.registry import Registry
    from osasis.evaluation.names import METRIC_NAMES, PREFIX

    registry = Registry(find_home(home))
    if len(styles) == 1:
        versions = registry.versions(styles[0].partition(":")[0].partition("@")[0])
    else:
        versions = [registry.resolve(s) for s in styles]
    runs = [registry.client.get_run(v.run_id).data for v in versions]
    references = [v.reference for v in versions]

    def table(columns: list[dict[str, Any]], keys: list[str]) -> dict[str, dict[str, Any]]:
        return {
            k: {name: c.get(k) for name, c in zip(references, columns, strict=True)} for k in keys
        }

    keys = list(dict.fromkeys(k for r in runs for k in r.params))
    differing = [k for k in keys if len({r.params.get(k) for r in runs}) > 1]
    evaluated = [PREFIX + name for name in METRIC_NAMES]
    known = (*all_metrics(), "total", *evaluated)
    measured = [k for k in known if any(k in r.metrics for r in runs)]
    metrics = table([r.metrics for r in runs], measured)
    settings = table([r.params for r in runs], differing)
    if as_json:
        described = {
            v.reference: {**version_fields(v), "fingerprint": v.fingerprint} for v in versions
        }
        print_json({"versions": described, "metrics": metrics, "settings": settings})
        return
    aliases = {"alias": {v.reference: ",".join(v.aliases) for v in versions}}
    _print_table(references, aliases | metrics | settings)


def _print_table(columns: list[str], rows: dict[str, dict[str, Any]]) -> None:
    width = max(map(len, columns)) + 2
    print_result(f"{'':24}" + "".join(f"{c:>{width}}" for c in columns))
    for name, values in rows.items():
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v or "-") for v in values.values()]
        print_result(f"{name:24}" + "".join(f"{v:>{width}}" for v in shown))


@app.command(cls=Command)
def promote(
    style: Annotated[
        str, typer.Argument(metavar="STYLE", help="a:3 or a@alias; plain a promotes its candidate.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion."""
    from factory.registry import Registry

    print_fields(version_fields(Registry(find_home(home)).promote(style)), as_json)


@app.command(cls=Command)
def rollback(
    style: Annotated[str, typer.Argument(metavar="STYLE", help="Name of the style.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the previous champion of a style its champion again."""
    from factory.registry import Registry

    print_fields(version_fields(Registry(find_home(home)).rollback(style)), as_json)


@app.command(cls=Command)
def delete(
    style: Annotated[
        str, typer.Argument(metavar="STYLE", help="a:3 for one version; a for all its versions.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a version, or a style with all its versions."""
    from factory.registry import Registry

    deleted = Registry(find_home(home)).delete(style)
    print_fields({"deleted": [v.reference for v in deleted]}, as_json)


@app.command(cls=Command)
def compact(
    style: StyleArgument,
    rank: Annotated[int, option(OUTPUTS, "Rank of the factors.", min=1, max=512)] = 16,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a low-rank version of a full-rank style, as candidate in place of any other.

    The error is the share of the weights' change that is lost (squared norm).
    """
    from factory.registry.compacting import compact_style

    version, compacted = compact_style(find_home(home), style, rank)
    print_fields({**version_fields(version), **compacted}, as_json)


@app.command(cls=Command)
def export(
    style: StyleArgument,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="FILE.zip, or a folder to make.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as a ZIP file or folder."""
    from factory.registry.bundles import export_style

    version = export_style(find_home(home), style, target)
    print_fields({**version_fields(version), "target": str(target)}, as_json)


@app.command("import", cls=Command)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Exported ZIP file or folder; with --checkpoint, the id of the new style.",
        ),
    ],
    id: Annotated[str | None, option(OUTPUTS, "Id to register an exported style under.")] = None,
    candidate: Annotated[
        bool, option(OUTPUTS, "Register the style as candidate instead of champion.", "--candidate")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        option(
            INPUTS,
            "A style of another program: iter_N.pt of OSASIS's published code, or a LoRA file for "
            "a base of DiffStyler.",
            metavar="FILE",
        ),
    ] = None,
    image: Annotated[
        Path | None, option(INPUTS, "The style image, with --checkpoint.", metavar="FILE")
    ] = None,
    counterpart: Annotated[
        Path | None,
        option(INPUTS, "The style's photo counterpart, with --checkpoint.", metavar="FILE"),
    ] = None,
    prompt: Annotated[
        str | None,
        option(
            INPUTS,
            "The prompt that a LoRA was trained with, with --checkpoint (default: painting of "
            "<sss>).",
            metavar="TEXT",
        ),
    ] = None,
    base: BaseOption = None,
    licence: LicenceOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register an exported style, or a style of another program."""
    place = find_home(home)
    if checkpoint is None:
        published = {
            "image": image,
            "counterpart": counterpart,
            "prompt": prompt,
            "base": base,
            "licence": licence,
        }
        if given := [name for name, value in published.items() if value]:
            raise UserError(f"--{given[0]} goes with --checkpoint; give that too, or leave it out")
        from factory.registry.bundles import import_bundle

        version = import_bundle(place, Path(source), id, promote=not candidate)
        print_fields(version_fields(version), as_json)
        return
    if image is None:
        raise UserError("--image is missing; give the style image with --checkpoint")
    from factory.registry.published_styles import import_style

    version = import_style(
        place,
        id or source,
        checkpoint,
        image,
        counterpart=counterpart,
        prompt=prompt,
        base=base,
        licence=licence,
    )
    print_fields(version_fields(version), as_json)


def version_fields(version: StyleVersion) -> dict[str, Any]:
    """The fields of a version that every command prints."""
    return {
        "id": version.style,
        "version": version.version,
        "aliases": list(version.aliases),
        "base_name": version.tags.get("base_name", ""),
        "tags": [t for t in version.tags.get("tags", "").split(",") if t],
        "licence": version.tags.get("licence", ""),
        "created_ms": version.created_ms,
    }
