"""Provenance: what made a picture, inside the picture's own file.

PNG keeps it in text chunks, JPEG and WebP in an XMP packet. Reading it back trusts nothing.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping

from PIL import Image

from osasis.images.decoding import load_image, png_bytes

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
NAMESPACE = "https://style-factory.invalid/ns/1.0/"
ORIENTATION = 0x0112
# Tags that describe the old pixels: size, strips, thumbnail, and the maker's private notes.
_OF_THE_PIXELS = (0x0100, 0x0101, 0x0102, 0x0111, 0x0117, 0x0201, 0x0202)
_MAKER_NOTE = 0x927C
_EXIF_IFD = 0x8769
MAX_EXIF = 60_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


def encode_image(
    image: Image.Image,
    image_format: str,
    provenance: Mapping[str, str],
    *,
    quality: int = 90,
    exif: bytes | None = None,
) -> bytes:
    """A picture as a file of "png", "jpeg" or "webp" with its provenance; the same input gives
    the same bytes.

    provenance: names of letters, digits and underscores; any text. quality: 1 to 100, of JPEG and
    WebP. exif: a block to keep with it. Raises ValueError for other formats.
    """
    bare = image.copy()
    bare.info = {}
    if image_format == "png":
        data = png_bytes(bare, dict(provenance))
        return data if exif is None else _png_with_exif(data, exif)
    options = {"exif": exif} if exif else {}
    buffer = io.BytesIO()
    if image_format == "jpeg":
        bare.save(
            buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2,
            xmp=xmp_packet(provenance), **options,
        )  # fmt: skip
    elif image_format == "webp":
        bare.save(buffer, "WEBP", quality=quality, method=4, xmp=xmp_packet(provenance), **options)
    else:
        raise ValueError(f"format {image_format!r} is none of {', '.join(FORMATS)}")
    return buffer.getvalue()


def _png_with_exif(data: bytes, exif: bytes) -> bytes:
    """An eXIf chunk before the end chunk of a PNG file."""
    import struct
    import zlib

    body = b"eXIf" + exif.removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:-12] + chunk + data[-12:]


def xmp_packet(provenance: Mapping[str, str]) -> bytes:
    """Provenance as an XMP packet, one attribute a name."""
    lines = []
    for name, value in sorted(provenance.items()):
        if not _NAME.fullmatch(name):
            raise ValueError(f"provenance name {name!r}: use letters, digits and underscores")
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
        lines.append(f'   sf:{name}="{html.escape(text)}"')
    body = "\n".join(lines)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about="" xmlns:sf="{NAMESPACE}"\n{body}/>\n'
        " </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    ).encode()


def read_provenance(data: bytes, name: str = "image") -> dict[str, str]:
    """The provenance that ``encode_image`` wrote; empty where there is none.

    Raises ImageError where the bytes are no picture.
    """
    load_image(data, name=name, min_side=1)
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
        if image.format == "PNG":
            image.load()
            text: dict[str, str] = getattr(image, "text", {})
            return {k: str(v) for k, v in text.items()} if "style" in text else {}
        packet = image.info.get("xmp", b"")
    text_packet = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    if NAMESPACE not in text_packet:
        return {}
    found = re.findall(r'\bsf:([A-Za-z][A-Za-z0-9_]*)="([^"]*)"', text_packet)
    return {k: html.unescape(v) for k, v in found}


def kept_exif(data: bytes) -> bytes | None:
    """The EXIF block of a picture file for its stylization: upright, without thumbnail and
    maker's notes; None where there is none that can be kept."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            if not len(exif):
                return None
            for tag in _OF_THE_PIXELS:
                exif.pop(tag, None)
            exif.get_ifd(_EXIF_IFD).pop(_MAKER_NOTE, None)
            exif[ORIENTATION] = 1
            block = exif.tobytes()
    except Exception:  # broken EXIF is not kept; the picture has been read before
        return None
    return block if len(block) <= MAX_EXIF else None
