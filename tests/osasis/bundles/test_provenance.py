"""Provenance inside pictures: it comes back as it was, whatever the format and the text."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from osasis.bundles.provenance import encode_image, kept_exif, read_provenance
from osasis.errors import ImageError

TOLD = {
    "style": "oil:3",
    "mix": json.dumps({"styles": [{"style": "oil"}], "text_edit": "<\"é&'>"}),
    "source": 'a b/ü & <x>\n"y".jpg',
}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_provenance_comes_back(kind: str) -> None:
    image = Image.linear_gradient("L").convert("RGB")
    data = encode_image(image, kind, TOLD, quality=80)
    assert data == encode_image(image, kind, dict(reversed(TOLD.items())), quality=80)
    found = read_provenance(data)
    expected = dict(TOLD)
    if kind != "png":  # an attribute of XML holds no line break
        expected["source"] = TOLD["source"].replace("\n", "\\n")
    assert found == expected
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.size, opened.format) == (image.size, kind.upper())


def test_quality_counts_and_plain_pictures_say_nothing() -> None:
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    sizes = [len(encode_image(image, "jpeg", TOLD, quality=q)) for q in (30, 95)]
    assert sizes[0] < sizes[1]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert read_provenance(buffer.getvalue()) == {}
    with pytest.raises(ImageError):
        read_provenance(b"no picture")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_kept_exif_is_upright_and_the_rest_is_as_it_was(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    kept = kept_exif(buffer.getvalue())
    assert kept is not None
    data = encode_image(Image.new("RGB", (8, 8)), kind, TOLD, exif=kept)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        found = image.getexif()
        assert (found[0x0112], found[0x010F]) == (1, "Maker")
        assert found.get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"
    assert read_provenance(data)["style"] == "oil:3"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    assert kept_exif(buffer.getvalue()) is None
