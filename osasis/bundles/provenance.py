"""Provenance: what made a picture, stored in the picture's own file.

PNG files hold it in text chunks, JPEG and WebP files in an XMP packet: one text for each field of
``Provenance``.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image, PngImagePlugin
from pydantic import Field

from osasis.images.decoding import load_image
from osasis.mix import Mix
from osasis.validation import InputModel, InvalidInputError, Problem

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# What an output tells: everything with the photo's path, everything with the photo's bare name, or
# nothing.
Level = Literal["full", "style", "none"]
NAMESPACE = "https://style-factory.invalid/ns/1.0/"
ORIENTATION = 0x0112
IMAGE_DESCRIPTION = 0x010E
# Tags that describe the old pixels: size, strips, thumbnail, and the maker's private notes.
_PIXEL_TAGS = (0x0100, 0x0101, 0x0102, 0x0111, 0x0117, 0x0201, 0x0202)
_MAKER_NOTE = 0x927C
_EXIF_IFD = 0x8769
MAX_EXIF = 60_000
# Fields whose text is JSON; the text of every other field is its value.
_JSON_FIELDS = ("styles", "mix", "detail", "quality", "masks")


class UsedStyle(InputModel):
    """The version of a style that a picture was made with."""

    reference: str = Field(min_length=1, description="style and version, such as `oil:3`")
    fingerprint: str = Field("", description="hash of the training run; empty where unknown")


class Provenance(InputModel):
    """Everything that decides a picture's bytes. None means that the file does not tell."""

    subject: ClassVar[str] = "provenance"

    code: str = Field("", description="version of style-factory")
    styles: Annotated[tuple[UsedStyle, ...], Field(strict=False, min_length=1)] = Field(
        description="the versions of the mix's styles, in the mix's order"
    )
    base: str = Field("", description="fingerprint of the base")
    mix: Mix = Field(description="the mix; its styles are ids without a version")
    arithmetic: Literal["float32", "bfloat16"] | None = Field(
        None, description="arithmetic of the forward passes"
    )
    fit: Literal["crop", "pad", "resize", "align"] | None = Field(
        None, description="how the photo met the base's square"
    )
    no_face: Literal["error", "crop", "keep"] | None = Field(
        None, description="with fit `align`: what became of a photo without a face"
    )
    size: Literal["photo", "base"] = Field("photo", description="size of the picture")
    detail: bool = Field(False, description="the style was carried up to the photo's resolution")
    format: Literal["png", "jpeg", "webp"] = Field("png", description="format of the file")
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="of JPEG and WebP"
    )
    alpha: Literal["keep", "drop"] | None = Field(
        None, description="what became of the photo's transparency; null: it had none to keep"
    )
    metadata: Literal["strip", "keep"] = Field("strip", description="the photo's EXIF")
    masks: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of each mask's file, by the mask's name"
    )
    source: str = Field("", description="name or path of the photo; empty where unknown")

    def cross_problems(self) -> list[Problem]:
        if len(self.styles) == len(self.mix.styles):
            return []
        count = len(self.styles)
        return [Problem("styles", count, f"styles has {count} items", f"{len(self.mix.styles)}")]

    def to_text(self) -> dict[str, str]:
        """One text for each known field, and the name of the software."""
        fields = {name: value for name, value in self.to_dict().items() if value not in (None, {})}
        texts = {"Software": f"style-factory {self.code}".strip()}
        for name, value in fields.items():
            texts[name] = json.dumps(value) if name in _JSON_FIELDS else value
        return texts

    @classmethod
    def from_text(cls, texts: Mapping[str, Any], subject: str = "provenance") -> Provenance | None:
        """Read what ``to_text`` returned, or what an older version wrote; None where neither is
        there. Raises InvalidInputError for values that no version wrote."""
        if "mix" not in texts or not ("styles" in texts or "style" in texts):
            return None
        found = dict(texts)
        if "styles" not in found:
            found = _from_older_version(found)
        for name in _JSON_FIELDS:
            if isinstance(text := found.get(name), str):
                try:
                    found[name] = json.loads(text)
                except (ValueError, RecursionError):
                    problem = Problem(name, text, f"{name} is damaged", "JSON")
                    raise InvalidInputError(subject, [problem]) from None
        return cls.parse({k: v for k, v in found.items() if k in cls.model_fields}, subject)


def _from_older_version(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of version 0.1.0. Corpora joined styles by "+"; serving joined them by "," and told
    neither fit nor version."""
    served = "code" not in texts
    references = str(texts["style"]).split("," if served else "+")
    fingerprints = str(texts.get("style_fingerprint", "")).split("+")
    if len(fingerprints) != len(references):
        fingerprints = [""] * len(references)
    pairs = zip(references, fingerprints, strict=True)
    found = {**texts, "styles": [{"reference": r, "fingerprint": f} for r, f in pairs]}
    found["detail"] = texts.get("detail") == "yes"
    return {**found, "size": "base"} if served else found


def source_name(path: str, level: Level) -> str:
    """What an output tells of its photo: the path, or the name without folders."""
    return path if level == "full" else re.split(r"[/\\]", path)[-1]


def encode_image(
    image: Image.Image, provenance: Provenance, *, exif: bytes | None = None, embed: bool = True
) -> bytes:
    """A picture as a file of the format and quality that its provenance names.

    The same input gives the same bytes. exif: a block to keep. embed: write the provenance into the
    file. Raises ValueError where JPEG or WebP is asked for without a quality.
    """
    bare = image.copy()
    bare.info = {}
    options: dict[str, Any] = {"exif": exif} if exif else {}
    texts = provenance.to_text() if embed else {}
    kind, quality = provenance.format, provenance.quality
    buffer = io.BytesIO()
    if kind == "png":
        chunks = PngImagePlugin.PngInfo()
        for name, text in sorted(texts.items()):
            chunks.add_text(name, text.encode("utf-8", "backslashreplace").decode())
        bare.save(buffer, "PNG", pnginfo=chunks, **options)
        return buffer.getvalue()
    if quality is None:
        raise ValueError(f"format {kind} needs a quality")
    options |= {"quality": quality} | ({"xmp": xmp_packet(texts)} if texts else {})
    if kind == "jpeg":
        bare.save(buffer, "JPEG", subsampling=0 if quality >= 90 else 2, **options)
    else:
        bare.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()


def xmp_packet(texts: Mapping[str, str]) -> bytes:
    """Texts as an XMP packet, one attribute for each name."""
    body = "\n".join(f'   sf:{name}="{_attribute(text)}"' for name, text in sorted(texts.items()))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about="" xmlns:sf="{NAMESPACE}"\n{body}/>\n'
        " </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    ).encode()


def _attribute(text: str) -> str:
    """Text for an XML attribute. XML has no other control characters than tab and line ends."""
    return "".join(
        html.escape(c) if c.isprintable()
        else f"&#{ord(c)};" if c in "\t\r\n"
        else ascii(c)[1:-1]
        for c in text
    )  # fmt: skip


def read_provenance(data: bytes, name: str = "image") -> Provenance | None:
    """The provenance in a picture file's bytes, written by this or an older version; None where
    there is none.

    Raises ImageError where the bytes are no picture, InvalidInputError where the provenance is
    damaged.
    """
    load_image(data, name=name, min_side=1)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        kind = (image.format or "").lower()
        if kind not in FORMATS:
            return None
        if kind == "png":
            texts: dict[str, Any] = dict(getattr(image, "text", {}))
        else:
            texts = _xmp_texts(image.info.get("xmp", b"")) or _exif_texts(image)
    return Provenance.from_text({"format": kind, **texts}, name)


def _xmp_texts(packet: bytes | str) -> dict[str, str]:
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    if NAMESPACE not in text:
        return {}
    found = re.findall(r'\bsf:([A-Za-z][A-Za-z0-9_]*)="([^"]*)"', text)
    return {k: html.unescape(v) for k, v in found}


def _exif_texts(image: Image.Image) -> dict[str, Any]:
    """Where serving 0.1.0 put it: JSON in EXIF's ImageDescription, with quality 95."""
    try:
        found = json.loads(image.getexif().get(IMAGE_DESCRIPTION, ""))
    except Exception:  # broken EXIF, or another program's description
        return {}
    return {**found, "quality": 95} if isinstance(found, dict) else {}


def kept_exif(data: bytes) -> bytes | None:
    """The EXIF block of a photo's file for its stylization: upright, without thumbnail and maker's
    notes; None where there is no block that can be kept."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            if not len(exif):
                return None
            for tag in _PIXEL_TAGS:
                exif.pop(tag, None)
            exif.get_ifd(_EXIF_IFD).pop(_MAKER_NOTE, None)
            exif[ORIENTATION] = 1
            block = exif.tobytes()
    except Exception:  # broken EXIF is not kept; the picture has been read before
        return None
    return block if len(block) <= MAX_EXIF else None
