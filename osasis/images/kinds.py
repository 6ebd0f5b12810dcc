"""Kinds of files by their first bytes; a suffix may be missing or wrong."""

from __future__ import annotations

import re

# Bytes that ``kind_of`` looks at.
HEAD_BYTES = 64

# Brands of the ISO container stand at the bytes 8 to 12 and, from 16 on, in a list. A general
# brand (mif1, msf1) is HEIC unless the list names AVIF.
_PATTERNS = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("WEBP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("RAW", rb"II\*\0.{4}CR|II(RO|RS|U\0)|MMOR|FUJIFILMCCD-RAW|....ftypcrx"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("BMP", rb"BM"),
    ("PPM", rb"P[1-6f][\s#]"),
    ("AVIF", rb"....ftyp(avi[fs]|(mif1|msf1).{4}(.{4}){0,10}avi[fs])"),
    ("HEIC", rb"....ftyp(hei|hev|mif1|msf1)"),
    ("video", rb"....ftyp(qt|iso|mp4|M4V|avc1|3g)"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("PDF", rb"%PDF"),
    ("PSD", rb"8BPS"),
    ("AppleDouble", rb"\0\x05\x16\x07"),
)
_KINDS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _PATTERNS)

# Formats with a signature of two bytes, which text files can start with.
SHORT_SIGNATURES = ("BMP", "PPM")
# A whole header of these formats, for files whose suffix names no picture.
_WHOLE_HEADER = re.compile(
    rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6f]\s+(#|\d+\s+\d+\s)", re.DOTALL
)
# Camera files that are TIFF by their first bytes; their TIFF picture is a thumbnail.
_RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mos", ".nef",
        ".nrw", ".pef", ".rwl", ".sr2", ".srf", ".srw",
    }
)  # fmt: skip
_SUFFIX = re.compile(r"\.[a-z0-9_-]{1,10}")


def kind_of(head: bytes) -> str | None:
    """The kind of a file by its first bytes, such as "PNG" or "HEIC"; None where it is unknown."""
    return next((name for name, pattern in _KINDS if pattern.match(head)), None)


def kind_of_file(head: bytes, suffix: str) -> str:
    """The kind of a file whose suffix names no picture, by its first bytes, else by its suffix.

    suffix: in small letters, with its dot.
    """
    if not head:
        return "empty"
    kind = kind_of(head)
    if kind == "TIFF" and suffix in _RAW_SUFFIXES:
        return "RAW"
    if kind is None or (kind in SHORT_SIGNATURES and not _WHOLE_HEADER.match(head)):
        return suffix[1:].upper() if _SUFFIX.fullmatch(suffix) else "unknown"
    return kind
