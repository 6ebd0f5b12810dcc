"""Patterns of files: as the standard library's `glob`, with links followed once."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator

from osasis.images.listing import HIDDEN, is_system, walk_folders

_BRACKETS = re.compile(r"\[[^]/]+\]")


def is_pattern(text: str) -> bool:
    return glob.has_magic(text)


def matching_files(pattern: str, left_out: Counter[str], skip: str | None = None) -> list[str]:
    """The files that a pattern matches, sorted. ``**`` stands for any number of folders.

    Hidden files and folders match only a part of the pattern that begins with a dot, and system
    folders (see ``SYSTEM_FOLDERS``) only a part without wildcards. left_out: counts the system
    folders. skip: a folder below which ``**`` matches nothing.
    """
    root = "/" if pattern.startswith("/") else ""
    parts = tuple(part for part in pattern.split("/") if part)
    seen: Counter[str] = Counter()
    found = sorted(set(_matches(root, parts, seen, skip)))
    left_out.update({kind: n for kind, n in seen.items() if kind != HIDDEN})
    return found


def _matches(
    base: str, parts: tuple[str, ...], left_out: Counter[str], skip: str | None
) -> Iterator[str]:
    """Files below ``base`` (empty, or with a final slash) that the parts of a pattern match."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        if os.path.isdir(base or "."):  # noqa: PTH112  # many folders
            for folder, _, files in walk_folders(base or ".", left_out, skip, refuse=False):
                below = folder if base else folder.removeprefix("./")
                if rest:  # the walk counts the system folders of each folder
                    yield from _matches(below, rest, Counter(), skip)
                else:
                    yield from (below + name for name in files)
        return
    for name in _names(base, part, left_out) if glob.has_magic(part) else [part]:
        path = base + name
        if rest:
            yield from _matches(path + "/", rest, left_out, skip)
        elif os.path.isfile(path):  # noqa: PTH113  # many files
            yield path


def _names(base: str, part: str, left_out: Counter[str]) -> list[str]:
    """Names in a folder that match a part with wildcards."""
    try:
        names = fnmatch.filter(os.listdir(base or "."), part)  # noqa: PTH208
    except OSError:  # no folder, or one that cannot be listed
        return []
    system = [name for name in names if is_system(name)]
    left_out.update(system)
    return [n for n in names if n not in system and (part[0] == "." or n[0] != ".")]


def explain_brackets(pattern: str) -> str:
    """How the brackets of a pattern are read, and how to write them as part of a name."""
    found = _BRACKETS.findall(pattern)
    if not found:
        return ""
    plain = re.sub(r"\[(?=[^]/]+\])", "[[]", pattern)
    return (
        f"; {found[0]} is read as one of the characters between the brackets: where it is part of "
        f"a name, write {plain!r}, or give the folder"
    )
