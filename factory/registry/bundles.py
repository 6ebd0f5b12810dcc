"""Exports registered styles to folders and ZIP files, and imports them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from factory.core.bases import check_name
from factory.core.disk import disk_named
from factory.core.home import Home
from factory.methods import LoadedBase, load_style
from factory.registry import CANDIDATE, CHAMPION, Registry, StyleVersion
from factory.registry.versions import TRAINING_FILE, read_training
from osasis.bundles.files import COUNTERPART_PNG, STYLE_JSON, STYLE_PNG, read_base_json
from osasis.errors import UserError
from osasis.storage import write_atomic, write_json

JSON_NAME = "bundle.json"
FORMAT = 1
# Files of a bundle's style; the import ignores all others.
STYLE_FILES = (STYLE_JSON, "style.safetensors", STYLE_PNG, COUNTERPART_PNG, TRAINING_FILE)
REQUIRED_FILES = (STYLE_JSON, "style.safetensors")
MAX_BYTES = 8 * 1024**3


def export_style(home: Home, reference: str, target: Path) -> StyleVersion:
    """Write a version to a ZIP file where target ends in .zip, else to a folder.

    Raises UserError where the target exists.
    """
    if target.exists():
        raise UserError(f"{target} already exists; name another file or folder")
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
    # Beside the target, then renamed: a full disk leaves neither half an export nor its bytes.
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    write = _write_zip if target.suffix.lower() == ".zip" else _write_folder
    try:
        with disk_named(target.parent):
            write(part, files, info)
            part.replace(target)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
        raise
    return version


def _write_zip(path: Path, files: dict[str, Path], info: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(JSON_NAME, json.dumps(info, indent=2))
        for name, file in files.items():
            archive.write(file, name)


def _write_folder(path: Path, files: dict[str, Path], info: dict[str, Any]) -> None:
    for name, file in files.items():
        write_atomic(path / name, file.read_bytes())
    write_json(path / JSON_NAME, info)


def import_bundle(
    home: Home, source: Path, style_id: str | None = None, *, promote: bool = True
) -> StyleVersion:
    """Register an exported style; returns the existing version of a registered fingerprint.

    style_id: id in this registry; None keeps the exported id. promote: make the style champion,
    else candidate. Raises UserError where the bundle is invalid or its base is missing.
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
        results = read_training(folder / "style")
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
            members = [i for i in archive.infolist() if _is_bundle_file(i.filename)]
            if sum(i.file_size for i in members) > MAX_BYTES:
                raise UserError(f"{source}: the limit is {MAX_BYTES >> 30} GiB unpacked")
            for item in members:
                write_atomic(folder / item.filename, archive.read(item))
    except (zipfile.BadZipFile, OSError, EOFError) as e:
        raise UserError(f"{source}: not a style bundle ({e}); export the style again") from None


def _is_bundle_file(name: str) -> bool:
    """Whether an export writes this name; excludes paths that lead out of the folder."""
    files = {JSON_NAME, *(f"style/{n}" for n in STYLE_FILES)}
    return name in files or re.fullmatch(r"previews/\d+\.png", name) is not None


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
    if missing := [n for n in REQUIRED_FILES if not (folder / "style" / n).is_file()]:
        raise UserError(f"{source}: style/{missing[0]} is missing; export the style again")
    return info


def _check_base(home: Home, fingerprint: str, source: Path) -> None:
    fingerprints = {n: read_base_json(f)["fingerprint"] for n, f in home.base_folders().items()}
    if fingerprint not in fingerprints.values():
        named = ", ".join(f"{n} ({f})" for n, f in fingerprints.items()) or "none"
        raise UserError(
            f"{source}: its base {fingerprint} is not in {home.shared(home.bases)}: there are "
            f"{named}; import that base first"
        )


def check_finite(folder: Path, base: LoadedBase | None = None) -> None:
    """Load a style and verify its hash. Raises UserError where a weight is not finite."""
    style = load_style(folder, base)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in style.tensors()):
        raise UserError("its weights are not finite")
