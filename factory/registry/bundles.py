"""Registered styles as files: a folder or a ZIP that another installation imports."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from factory.core.bases import check_name
from factory.core.home import Home
from factory.registry import CANDIDATE, CHAMPION, Registry, StyleVersion
from factory.registry.versions import TRAINING
from osasis.bundles.base import Base
from osasis.bundles.style import load_style
from osasis.errors import UserError
from osasis.storage import write_atomic, write_json

JSON_NAME = "bundle.json"
FORMAT = 1
# What a bundle may hold; nothing else of an archive is looked at.
STYLE_FILES = ("style.json", "style.safetensors", "style.png", "counterpart.png", TRAINING)
NEEDED = ("style.json", "style.safetensors")
MAX_BYTES = 8 * 1024**3


def export_style(home: Home, reference: str, target: Path) -> StyleVersion:
    """Write a version as a bundle: a ZIP where target ends in .zip, else a folder.

    Raises UserError where the target is there already.
    """
    if target.exists():
        raise UserError(f"{target} is there already; name another file or folder")
    registry = Registry(home)
    version = registry.resolve(reference)
    run = registry.client.get_run(version.run_id)
    folder = version.folder()
    info = {
        "format": FORMAT,
        "style": version.style,
        "version": version.version,
        "fingerprint": version.fingerprint,
        "base": version.base,
        "tags": version.tags,
        "params": run.data.params,
    }
    files = {f"style/{n}": folder / n for n in STYLE_FILES if (folder / n).is_file()}
    files |= {f"previews/{p.name}": p for p in version.previews()}
    if target.suffix.lower() != ".zip":
        for name, path in files.items():
            write_atomic(target / name, path.read_bytes())
        write_json(target / JSON_NAME, info)
        return version
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with zipfile.ZipFile(part, "w") as archive:
        archive.writestr(JSON_NAME, json.dumps(info, indent=2))
        for name, path in files.items():
            archive.write(path, name)
    part.replace(target)
    return version


def import_bundle(
    home: Home, source: Path, style_id: str | None = None, *, promote: bool = True
) -> StyleVersion:
    """Register a bundle; one whose fingerprint is registered already is found, not added.

    style_id: another id than it had. promote: whether it becomes champion, or a candidate.
    Raises UserError where the bundle is broken or its base is not here.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = source
        if source.is_file():
            folder = Path(temporary)
            _unpack(source, folder)
        info = _read_info(source, folder)
        name = style_id or str(info["style"])
        check_name(name, "style")
        check_finite(folder / "style")
        _check_base(home, info["base"], source)
        trained = folder / "style" / TRAINING
        results = json.loads(trained.read_text()) if trained.is_file() else {}
        staged = Path(temporary) / "staged"
        for file in STYLE_FILES:
            if (folder / "style" / file).is_file():
                write_atomic(staged / file, (folder / "style" / file).read_bytes())
        return Registry(home).register(
            name,
            staged,
            fingerprint=str(info["fingerprint"]),
            base=str(info["base"]),
            params=info["params"],
            history=results.get("history", []),
            metrics=results.get("metrics", {}),
            tags={**{k: str(v) for k, v in info["tags"].items()}, "imported": source.name},
            previews=folder / "previews",
            alias=CHAMPION if promote else CANDIDATE,
        )


def _unpack(source: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            wanted = [i for i in archive.infolist() if _allowed(i.filename)]
            if sum(i.file_size for i in wanted) > MAX_BYTES:
                raise UserError(f"{source}: more than {MAX_BYTES >> 30} GiB unpacked; no style is")
            for item in wanted:
                write_atomic(folder / item.filename, archive.read(item))
    except (zipfile.BadZipFile, OSError, EOFError) as e:
        raise UserError(f"{source}: not a style bundle ({e}); export the style again") from None


def _allowed(name: str) -> bool:
    """Only names that an export writes: none leads out of the folder."""
    head, _, rest = name.partition("/")
    if name == JSON_NAME:
        return True
    preview = rest.removesuffix(".png").isdigit() and rest.endswith(".png")
    return (head == "style" and rest in STYLE_FILES) or (head == "previews" and preview)


def _read_info(source: Path, folder: Path) -> dict[str, Any]:
    path = folder / JSON_NAME
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError):
        info = None
    known = ("style", "fingerprint", "base", "tags", "params")
    if not isinstance(info, dict) or not all(k in info for k in known):
        raise UserError(
            f"{source}: not a style bundle (it has no {JSON_NAME}); make one with `styles export`, "
            "or give --checkpoint for one of the published code"
        )
    if info.get("format") != FORMAT:
        raise UserError(
            f"{source}: bundle format {info.get('format')}; this version reads {FORMAT}"
        )
    if missing := [n for n in NEEDED if not (folder / "style" / n).is_file()]:
        raise UserError(f"{source}: style/{missing[0]} is missing; export the style again")
    return info


def _check_base(home: Home, fingerprint: str, source: Path) -> None:
    from osasis.bundles.base import read_base_info

    there = {n: read_base_info(f)["fingerprint"] for n, f in home.base_folders().items()}
    if fingerprint not in there.values():
        named = ", ".join(f"{n} ({f})" for n, f in there.items()) or "none"
        raise UserError(
            f"{source}: its base {fingerprint} is not in {home.bases}: there are {named}; import "
            "that base first"
        )


def check_finite(folder: Path, base: Base | None = None) -> None:
    """Read a style's bundle back, with its hash. Raises UserError where a weight is not finite."""
    style = load_style(folder, base)
    tensors = {f"delta.{k}": v for k, v in style.delta.items()}
    tensors |= {f"spn.{k}": v for k, v in style.spn.items()}
    tensors |= {"z_style": style.z_style, "z_counterpart": style.z_counterpart}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"its weights are not finite (first: {name})")
