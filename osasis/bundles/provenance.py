"""Provenance: the inputs and settings that produced an image, stored in the image file.

Each field of ``Provenance`` is a PNG text chunk or, in JPEG and WebP files, an attribute of an XMP
packet.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from PIL import Image, PngImagePlugin
from pydantic import Field

from osasis import choices
from osasis.choices import Alpha, Arithmetic, Fit, ImageFormat, Metadata, NoFace, OutputSize
from osasis.images.decoding import load_image, open_header
from osasis.images.photo_options import CropBox
from osasis.mix import Mix
from osasis.validation import InputModel, InvalidInputError, Problem

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
NAMESPACE = "https://style-factory.invalid/ns/1.0/"
ORIENTATION = 0x0112
IMAGE_DESCRIPTION = 0x010E
# Size, strips and thumbnail of the original photo, which are wrong for its stylization.
_PIXEL_TAGS = (0x0100, 0x0101, 0x0102, 0x0111, 0x0117, 0x0201, 0x0202)
_MAKER_NOTE = 0x927C
_EXIF_IFD = 0x8769
MAX_EXIF = 60_000
# Fields whose text is JSON. Other fields are stored as plain text.
_JSON_FIELDS = ("styles", "mix", "crop", "detail", "quality", "masks", "mask_proposal")


class UsedStyle(InputModel):
    """The version of a style that an image was made with."""

    reference: str = Field(min_length=1, description="style and version, such as `oil:3`")
    fingerprint: str = Field("", description="hash of the training run; empty where unknown")


class Provenance(InputModel):
    """All inputs that determine an image's bytes. None: not recorded in the file."""

    subject: ClassVar[str] = "provenance"

    code: str = Field("", description="version of style-factory")
    styles: Annotated[tuple[UsedStyle, ...], Field(strict=False, min_length=1)] = Field(
        description="versions of the styles, in the order of `mix.styles`"
    )
    base: str = Field("", description="fingerprint of the base")
    mix: Mix = Field(description="the mix; its styles are ids without versions")
    arithmetic: Arithmetic | None = Field(None, description="arithmetic of the forward passes")
    fit: Fit | None = Field(None, description="how the photo was fitted to the base's square")
    crop: CropBox | None = Field(None, description="the square of the photo that fit `crop` took")
    no_face: NoFace | None = Field(
        None, description="with fit `align`: how photos without a face are handled"
    )
    size: OutputSize = Field("photo", description="size of the image")
    detail: bool = Field(False, description="the style was transferred to the photo's resolution")
    format: ImageFormat = Field("png", description="format of the file")
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="quality of JPEG and WebP files"
    )
    alpha: Alpha | None = Field(
        None, description="whether the photo's transparency was kept; null: there was none to keep"
    )
    metadata: Metadata = Field("strip", description="whether the photo's EXIF was kept")
    masks: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of each mask file, by mask name"
    )
    mask_proposal: dict[str, Any] | None = Field(
        None, description="how the mask `photo` was proposed: region and segmenter"
    )
    source: str = Field("", description="name or path of the photo; empty where unknown")

    def cross_problems(self) -> list[Problem]:
        if len(self.styles) == len(self.mix.styles):
            return []
        count = len(self.styles)
        return [Problem("styles", count, f"styles has {count} items", f"{len(self.mix.styles)}")]

    def to_text(self) -> dict[str, str]:
        """Texts of the fields that are set, and ``Software``, by name."""
        fields = {name: value for name, value in self.to_dict().items() if value not in (None, {})}
        texts = {"Software": f"style-factory {self.code}".strip()}
        for name, value in fields.items():
            texts[name] = json.dumps(value) if name in _JSON_FIELDS else value
        return texts

    @classmethod
    def from_text(cls, texts: Mapping[str, Any], subject: str = "provenance") -> Provenance | None:
        """Parse texts of this or an older version; None if they contain no provenance.

        Raises InvalidInputError, with ``subject``, for damaged or invalid values.
        """
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
        if isinstance(found["mix"], dict):
            found["mix"] = _mix_of_older_version(found["mix"])
        return cls.parse({k: v for k, v in found.items() if k in cls.model_fields}, subject)


def _mix_of_older_version(mix: dict[str, Any]) -> dict[str, Any]:
    """A mix without ``seed``, which had no effect, and with one of two fields that exclude each
    other: level_weights had precedence."""
    dropped = {"seed"} | ({"content_cutoff"} if mix.get("level_weights") is not None else set())
    return {name: value for name, value in mix.items() if name not in dropped}


def _from_older_version(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert texts of version 0.1.0 to fields.

    Its corpus jobs joined styles with "+". Its server joined them with "," and recorded neither
    fit nor code version.
    """
    served = "code" not in texts
    references = str(texts["style"]).split("," if served else "+")
    fingerprints = str(texts.get("style_fingerprint", "")).split("+")
    if len(fingerprints) != len(references):
        fingerprints = [""] * len(references)
    pairs = zip(references, fingerprints, strict=True)
    found = {**texts, "styles": [{"reference": r, "fingerprint": f} for r, f in pairs]}
    found["detail"] = texts.get("detail") == "yes"
    return {**found, "size": "base"} if served else found


def source_name(path: str, level: choices.Provenance) -> str:
    """What an output tells of its photo: the path, or the name without folders."""
    return path if level == "full" else path.rpartition("/")[2]


def encode_image(
    image: Image.Image, provenance: Provenance, *, exif: bytes | None = None, embed: bool = True
) -> bytes:
    """Encode an image with its provenance, in ``provenance.format`` and ``quality``.

    Equal arguments give equal bytes. exif: an EXIF block to store. embed: store the provenance.
    Raises ValueError for JPEG or WebP without a quality.
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
    """Texts as an XMP packet with one attribute per name."""
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
    """Escape text for an XML attribute. XML allows no control characters but tab and newlines."""
    return "".join(
        html.escape(c) if c.isprintable()
        else f"&#{ord(c)};" if c in "\t\r\n"
        else ascii(c)[1:-1]
        for c in text
    )  # fmt: skip


def read_provenance(data: bytes, name: str = "image") -> Provenance | None:
    """Read the provenance that this or an older version stored in an image file; None if absent.

    data: content of the file. name: subject of error messages. Raises ImageError for data that is
    not a readable image, InvalidInputError for damaged provenance.
    """
    load_image(data, name=name, min_side=1)
    image = open_header(data)
    if image is None:
        return None
    with image:
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
    """Texts from the server of version 0.1.0: JSON in EXIF's ImageDescription, quality 95."""
    try:
        found = json.loads(image.getexif().get(IMAGE_DESCRIPTION, ""))
    except Exception:  # damaged EXIF, or a description by other software
        return {}
    return {**found, "quality": 95} if isinstance(found, dict) else {}


def kept_exif(data: bytes) -> bytes | None:
    """EXIF block of a photo file for its stylization, or None if it has none that can be kept.

    The orientation is set to upright; thumbnail and maker notes are removed.
    """
    try:
        image = open_header(data)
        if image is None:
            return None
        with image:
            exif = image.getexif()
            if not len(exif):
                return None
            for tag in _PIXEL_TAGS:
                exif.pop(tag, None)
            exif.get_ifd(_EXIF_IFD).pop(_MAKER_NOTE, None)
            exif[ORIENTATION] = 1
            block = exif.tobytes()
    except Exception:  # damaged EXIF is dropped: the photo itself is readable
        return None
    return block if len(block) <= MAX_EXIF else None
