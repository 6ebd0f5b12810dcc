"""Text files that people write: lists of photos and catalogs, from any editor or spreadsheet."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from factory.core.uris import is_uri
from osasis.errors import UserError

# Longest marks first: the mark of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Quotes that editors and shells put around a path; typographic quotes come from word processors.
_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u201e", "\u201c"))


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in the encoding that its byte order mark names.

    errors: how bytes that are not in the encoding are decoded, as in ``bytes.decode``. Raises
    UserError for a file that cannot be read or, with "strict", has such bytes.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: {(e.strerror or 'cannot be read').lower()}") from None
    return decode_text(data, str(path), errors)


def decode_text(data: bytes, name: str, errors: str = "strict") -> str:
    """``read_text`` of a file's bytes. name: the file, in errors."""
    marked = next((e for mark, e in _MARKS if data.startswith(mark)), None)
    guessed = None if marked else _utf16_without_mark(data)
    encoding = marked or guessed or "utf-8"
    try:
        # Half a character at the end of UTF-16 is damage that no file name explains.
        return data.decode(encoding, errors if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as e:
        if guessed:
            raise UserError(f"{name}: not a text file; it has null bytes") from None
        shown = encoding.removesuffix("-sig").upper()
        raise UserError(f"{name}: not {shown} at byte {e.start}; save it as UTF-8") from None


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 by its zero bytes: text in UTF-8 has none."""
    head = data[:4096]
    zeros = [head[start::2].count(0) for start in (0, 1)]
    if not any(zeros):
        return None
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def text_lines(text: str) -> Iterator[str]:
    """The lines of a text, ended as on any system, without white space around them.

    ``str.splitlines`` also splits at characters that file names may contain, such as U+2028.
    """
    for line in re.split(r"\r\n|\r|\n", text):
        yield line.strip(" \t\v\f")


def existing_location(written: str, folder: Path) -> str:
    r"""A path or URI that a file of ``folder`` names, in the form that exists.

    The path as written comes first. Where nothing is there, quotes around it are removed, then
    "\" is read as "/", as on Windows. Returns ``written`` where none of these exists.
    """
    plain = _unquoted(written)
    forms = dict.fromkeys((written, plain, written.replace("\\", "/"), plain.replace("\\", "/")))
    if len(forms) == 1:
        return written
    for form in forms:
        if is_uri(form) or _exists(folder / form):
            return form
    return written


def _unquoted(text: str) -> str:
    for opening, closing in _QUOTES:
        if len(text) > 2 and text.startswith(opening) and text.endswith(closing):
            return text[1:-1].strip()
    return text


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null character, no such user
        return False
