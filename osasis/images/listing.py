"""Image files of a folder: which files are images, and what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

from osasis.errors import UserError
from osasis.images.decoding import ALLOWED, HEIF_EXTRA, printable, reads_kind, system_reason
from osasis.images.kinds import HEAD_BYTES, kind_of_file

# Files with these suffixes are images without a look at their bytes, so that listing a large folder
# opens few files. The decoder reports a file that is none.
IMAGE_SUFFIXES = frozenset(
    {
        ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
        ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
# Folders that storage devices and archives add: thumbnails, deleted files, snapshots, metadata.
SYSTEM_FOLDERS = frozenset(
    {
        "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "@recycle.bin", "@__thumb",
        "__macosx", "lost+found", "system volume information",
    }
)  # fmt: skip
HIDDEN = "hidden"
_UNREADABLE = "unreadable"
# Kinds that a line names, the most frequent ones.
_NAMED_KINDS = 8
_READERS, _PART = 8, 256

# Returns the first bytes of a file; raises OSError.
ReadHead = Callable[[str], bytes]


def find_images(
    folder: str | os.PathLike[str], report: Callable[[str], None] | None = None
) -> list[Path]:
    """List the image files below ``folder``, sorted by their path relative to it.

    report: called with one line about files that are left out, if there are any. See
    ``walk_files`` and ``images_among``. Raises UserError where the folder is missing, is a file,
    cannot be listed, or contains no image.
    """
    shown = printable(os.fspath(folder))
    if not Path(folder).is_dir():
        found = "is a file, not a folder" if Path(folder).exists() else "no such folder"
        raise UserError(f"{shown}: {found}")
    left_out: Counter[str] = Counter()
    images = images_among(walk_files(folder, left_out), left_out)
    if not images:
        raise UserError(f"{shown}: no image in this folder{no_image(left_out)}")
    if report is not None and left_out:
        report(f"{shown}: {describe_left_out(left_out)}")
    return [Path(path) for path in images]


def no_image(left_out: Mapping[str, int]) -> str:
    """The end of a message that a place holds no image: what it holds, and what is read."""
    return (f" ({describe_left_out(left_out)})" if left_out else "") + f"; {ALLOWED}"


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """One line, such as "2 files are of a kind that is not read (HEIC 1, MOV 1)"."""
    skipped = {kind: n for kind, n in left_out.items() if kind == HIDDEN or is_system(kind)}
    kinds = {kind: n for kind, n in left_out.items() if kind not in skipped}
    parts = []
    if kinds:
        files = sum(kinds.values())
        text = "1 file is" if files == 1 else f"{files} files are"
        parts.append(f"{text} of a kind that is not read ({_counts(kinds)})")
    if skipped:
        entries = sum(skipped.values())
        text = "1 hidden or system entry is" if entries == 1 else (
            f"{entries} hidden or system entries are"
        )  # fmt: skip
        parts.append(f"{text} skipped ({_counts(skipped)})")
    if "HEIC" in kinds:
        parts.append(HEIF_EXTRA)
    return "; ".join(parts)


def _counts(kinds: Mapping[str, int]) -> str:
    named = [f"{kind} {n}" for kind, n in sorted_counts(kinds).items()]
    more = len(named) - _NAMED_KINDS
    return ", ".join(named[:_NAMED_KINDS] + ([f"{more} more kinds"] if more > 0 else []))


def sorted_counts(left_out: Mapping[str, int]) -> dict[str, int]:
    """The counts by kind, largest first."""
    return dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0])))


def images_among(
    files: Iterable[str], left_out: Counter[str], read_head: ReadHead | None = None
) -> list[str]:
    """The files that are images, in their order; the others are counted by kind in ``left_out``.

    An image has a suffix of ``IMAGE_SUFFIXES`` (any case), or the first bytes of a format that is
    read. read_head: reads these of a file.
    """
    files = list(files)
    unknown = [file for file in files if suffix_of(file) not in IMAGE_SUFFIXES]
    kinds = dict(zip(unknown, _kinds(unknown, read_head or _read_head), strict=True))
    left_out.update(kind for kind in kinds.values() if not reads_kind(kind))
    return [file for file in files if file not in kinds or reads_kind(kinds[file])]


def is_image(file: str | os.PathLike[str]) -> bool:
    """Whether a file is an image, as ``images_among`` decides."""
    return bool(images_among([os.fspath(file)], Counter()))


def suffix_of(path: str) -> str:
    """The suffix of a path in small letters, with its dot."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122  # many files


def _kinds(files: Sequence[str], read_head: ReadHead) -> Iterator[str]:
    def kinds(part: list[str]) -> list[str]:
        return [_kind(file, read_head) for file in part]

    remaining = iter(files)
    parts = iter(lambda: list(islice(remaining, _PART)), [])
    with ThreadPoolExecutor(_READERS) as pool:  # network storage answers several at a time
        yield from chain.from_iterable(pool.map(kinds, parts))


def _kind(file: str, read_head: ReadHead) -> str:
    try:
        return kind_of_file(read_head(file), suffix_of(file))
    except OSError:
        return _UNREADABLE


def _read_head(file: str) -> bytes:
    # Without blocking: a pipe without a writer would wait for ever.
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        return os.read(handle, HEAD_BYTES)
    finally:
        os.close(handle)


# --- folders --------------------------------------------------------------------------------


def walk_files(
    root: str | os.PathLike[str],
    left_out: Counter[str] | None = None,
    skip: str | os.PathLike[str] | None = None,
) -> list[str]:
    """All files below a folder, sorted, without hidden ones and ``SYSTEM_FOLDERS``.

    left_out: counts what is skipped, a folder as one. skip: a folder that is not listed. See
    ``walk_folders``.
    """
    return sorted(
        f"{folder}{name}"
        for folder, _, files in walk_folders(root, left_out, skip)
        for name in files
    )


def walk_folders(
    root: str | os.PathLike[str],
    left_out: Counter[str] | None = None,
    skip: str | os.PathLike[str] | None = None,
    *,
    refuse: bool = True,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder with a final slash, folders in it, files in it) of ``root`` and all folders below it.

    Links to folders are followed. A folder that several paths reach is listed once: at its own
    path, else at the first link in order. A folder that cannot be listed raises UserError; without
    ``refuse``, or where it is reached by a link, it is counted in ``left_out``.
    """
    left_out = Counter() if left_out is None else left_out
    seen = {_identity(os.fspath(skip))} if skip is not None else set()
    seen.discard(_identity(os.fspath(root)))
    pending, links = [os.fspath(root)], list[str]()
    while pending or links:
        linked = not pending
        if linked:
            links.sort()
        at = pending.pop() if pending else links.pop(0)
        identity = _identity(at)
        if identity in seen:
            continue
        seen.add(identity)
        try:
            folders, linked_folders, files = _entries(at, left_out)
        except OSError as error:
            if refuse and not linked:
                shown = printable(str(error.filename or at))
                raise UserError(f"{shown}: {system_reason(error)}") from None
            left_out[_UNREADABLE] += 1
            continue
        base = os.path.join(at, "")  # noqa: PTH118  # many files
        pending += [base + name for name in folders]
        links += [base + name for name in linked_folders]
        yield base, folders + linked_folders, files


def _entries(folder: str, left_out: Counter[str]) -> tuple[list[str], list[str], list[str]]:
    """Names of the folders, linked folders and files in a folder that are not skipped."""
    folders: list[str] = []
    links: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            is_folder = _is_folder(entry)
            if name.startswith("."):
                left_out[HIDDEN] += 1
            elif is_folder and is_system(name):
                left_out[name] += 1
            elif not is_folder:
                files.append(name)
            else:
                (links if entry.is_symlink() else folders).append(name)
    return folders, links, files


def is_system(name: str) -> bool:
    """Whether a folder of this name belongs to the storage and holds no photos of a user."""
    return name.lower() in SYSTEM_FOLDERS


def skipped_part(name: str) -> str | None:
    """What a file below a folder is skipped for, as ``left_out`` counts it; else None.

    name: path relative to the folder.
    """
    *folders, file = name.split("/")
    for folder in folders:
        if folder.startswith("."):
            return HIDDEN
        if is_system(folder):
            return folder
    return HIDDEN if file.startswith(".") else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(path: str) -> tuple[int, int] | str:
    """What equal folders share, whatever path leads to them."""
    try:
        found = os.stat(path)  # noqa: PTH116  # many folders
    except OSError:
        return path
    # Some network file systems have no inode numbers.
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
