"""Provenance in image files: all fields, all formats, and files of version 0.1.0."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from osasis.bundles.provenance import (
    Provenance,
    UsedStyle,
    encode_image,
    kept_exif,
    read_provenance,
    xmp_packet,
)
from osasis.errors import ImageError
from osasis.mix import Mix
from osasis.validation import InvalidInputError

IMAGE = Image.linear_gradient("L").convert("RGB")
MIX = {
    "styles": [{"style": "oil", "weight": 0.3, "mask": "hair"}, {"style": "ink", "weight": 1.0}],
    "text_edit": "<\"é&'>",
    "level_weights": [0.25, 1.0],
}
PROVENANCE = Provenance(
    code="0.2.0",
    styles=(UsedStyle(reference="oil:3", fingerprint="abc"), UsedStyle(reference="ink:1")),
    base="tiny-123",
    mix=Mix.parse(MIX),
    arithmetic="bfloat16",
    fit="align",
    no_face="keep",
    size="photo",
    detail=True,
    metadata="keep",
    masks={"hair": "0" * 64},
    source='a b/ü & <x>\n"y".jpg',
)
TEXTS_0_1_0 = {
    "Software": "style-factory 0.1.0",
    "style": "oil:3+ink:1",
    "style_fingerprint": "abc+def",
    "base": "tiny-123",
    "mix": json.dumps(Mix.parse(MIX).to_dict()),
    "seed": "0",
    "fit": "pad",
    "detail": "yes",
    "size": "photo",
    "metadata": "strip",
    "code": "0.1.0",
    "source": "a.jpg",
}
TEXTS_0_1_0_SERVER = {
    "Software": "style-factory",
    "style": "oil:3,ink:1",
    "base": "tiny-123",
    "mix": Mix.parse(MIX).to_dict(),
}


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(texts: dict[str, str]) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    return saved("PNG", pnginfo=chunks)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_written_provenance_is_read_back(kind: str) -> None:
    written = PROVENANCE.replace(format=kind, quality=None if kind == "png" else 80)
    data = encode_image(IMAGE, written)
    assert data == encode_image(IMAGE.copy(), written)
    assert read_provenance(data) == written
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.size, opened.format) == (IMAGE.size, kind.upper())


def test_quality_sets_the_file_size_and_other_images_have_no_provenance() -> None:
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    sizes = [
        len(encode_image(noise, PROVENANCE.replace(format="jpeg", quality=quality)))
        for quality in (30, 95)
    ]
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match="quality"):
        encode_image(noise, PROVENANCE.replace(format="webp"))
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        assert read_provenance(saved(kind)) is None
    with pytest.raises(ImageError):
        read_provenance(b"no picture")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images_of_corpus_jobs_of_version_0_1_0(kind: str) -> None:
    texts = TEXTS_0_1_0 if kind == "png" else {**TEXTS_0_1_0, "quality": "83"}
    data = png_with(texts) if kind == "png" else saved("JPEG", xmp=xmp_packet(texts))
    assert read_provenance(data) == Provenance(
        code="0.1.0",
        styles=(
            UsedStyle(reference="oil:3", fingerprint="abc"),
            UsedStyle(reference="ink:1", fingerprint="def"),
        ),
        base="tiny-123",
        mix=Mix.parse(MIX),
        fit="pad",
        detail=True,
        format=kind,  # type: ignore[arg-type]
        quality=None if kind == "png" else 83,
        source="a.jpg",
    )


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_images_of_the_server_of_version_0_1_0(kind: str) -> None:
    if kind == "png":
        data = png_with({**TEXTS_0_1_0_SERVER, "mix": json.dumps(TEXTS_0_1_0_SERVER["mix"])})  # type: ignore[dict-item]
    else:
        exif = Image.Exif()
        exif[0x010E] = json.dumps(TEXTS_0_1_0_SERVER)
        data = saved(kind.upper(), exif=exif.tobytes())
    assert read_provenance(data) == Provenance(
        styles=(UsedStyle(reference="oil:3"), UsedStyle(reference="ink:1")),
        base="tiny-123",
        mix=Mix.parse(MIX),
        size="base",
        format=kind,  # type: ignore[arg-type]
        quality=None if kind == "png" else 95,
    )


def test_damaged_provenance_names_the_field() -> None:
    for change, field in (
        ({"mix": "{"}, "mix"),
        ({"mix": '{"styles": ["oil", "ink"], "strength": 9}'}, "mix.strength"),
        ({"style": "oil:3"}, "styles"),
        ({"fit": "stretch"}, "fit"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            read_provenance(png_with({**TEXTS_0_1_0, **change}), "a.png")
        assert (refused.value.subject, [p.field for p in refused.value.problems]) == (
            "a.png",
            [field],
        )
    exif = Image.Exif()
    exif[0x010E] = "a holiday"
    assert read_provenance(saved("JPEG", exif=exif.tobytes())) is None


def test_unknown_fields_are_ignored() -> None:
    written = PROVENANCE.replace(source="a.jpg")
    assert read_provenance(png_with({**written.to_text(), "moon": "full"})) == written


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_kept_exif_is_upright_and_otherwise_unchanged(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    kept = kept_exif(saved("JPEG", exif=exif))
    assert kept is not None
    written = PROVENANCE.replace(format=kind, quality=None if kind == "png" else 90)
    data = encode_image(IMAGE, written, exif=kept)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        found = image.getexif()
        assert (found[0x0112], found[0x010F]) == (1, "Maker")
        assert found.get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"
    assert read_provenance(data) == written
    assert kept_exif(saved("JPEG")) is None


def test_mixes_of_earlier_versions_are_read() -> None:
    mix = {"styles": ["oil"], "seed": 7, "content_cutoff": 16, "level_weights": [1.0, 0.0]}
    texts = {"styles": json.dumps([{"reference": "oil:3"}]), "mix": json.dumps(mix)}
    found = Provenance.from_text(texts)
    assert found is not None
    # A seed had no effect, and level_weights had precedence.
    assert found.mix == Mix.of("oil", level_weights=[1.0, 0.0])
