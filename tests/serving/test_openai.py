"""OpenAI's own client on a real server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import Server, photo_bytes, pixels
from tests.serving.test_http import INK, png

openai = pytest.importorskip("openai", reason="openai is not installed")
PHOTO = photo_bytes(840, (48, 40))


@pytest.fixture(scope="module")
def client(server: Server, keys: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["alice"], max_retries=0) as made:
        yield made


def image_of(answer: openai.types.ImagesResponse) -> bytes:
    assert answer.data and answer.data[0].b64_json
    return base64.b64decode(answer.data[0].b64_json)


def test_an_edit_is_the_stylized_photo(client: openai.OpenAI, server: Server) -> None:
    answer = client.images.edit(model="ink", image=("p.png", PHOTO), prompt="in ink")
    assert answer.created > 1_700_000_000
    assert (pixels(image_of(answer)) == pixels(server.stylize(PHOTO, INK).content)).all()
    blend = client.images.edit(model="ink+oil", image=("p.png", PHOTO), prompt="")
    mixed = server.stylize(PHOTO, {"styles": ["ink", "oil"]})
    assert (pixels(image_of(blend)) == pixels(mixed.content)).all()


def test_the_style_shows_where_the_mask_is_transparent(client: openai.OpenAI) -> None:
    mask = np.full((40, 48, 4), 255)
    mask[:, :24, 3] = 0
    answer = client.images.edit(
        model="oil", image=("p.png", PHOTO), mask=("m.png", png(mask)), prompt="", size="auto"
    )
    change = np.abs(pixels(image_of(answer)) - pixels(PHOTO)).max(-1)
    assert change[10:30, 8:18].mean() > 3 * change[10:30, 32:40].mean()
    with pytest.raises(openai.UnprocessableEntityError, match="no transparent pixel"):
        client.images.edit(
            model="oil", image=("p.png", PHOTO), prompt="", mask=("m.png", png(mask[..., :3]))
        )


def test_sizes_and_formats(client: openai.OpenAI) -> None:
    made = client.images.edit(
        model="ink", image=("p.png", PHOTO), prompt="", size="256x256", n=2,
        response_format="url", output_format="jpeg", extra_body={"fit": "pad"},
    )  # fmt: skip
    assert made.data and len(made.data) == 2 and made.data[0].url == made.data[1].url
    head, _, text = (made.data[0].url or "").partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert head == "data:image/jpeg;base64" and (image.size, image.format) == ((256, 256), "JPEG")


def test_models_are_the_styles(client: openai.OpenAI) -> None:
    assert {"ink", "oil", "sepia"} <= {m.id for m in client.models.list()}
    assert client.models.retrieve("oil").created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gone")


def test_errors_are_those_of_the_client(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="nearest: ink") as e:
        client.images.edit(model="inc", image=("p.png", PHOTO), prompt="")
    assert json.loads(e.value.response.text)["error"]["field"] == "mix.styles[0].style"
    with pytest.raises(openai.UnprocessableEntityError, match="size is 'huge'"):
        client.images.edit(model="ink", image=("p.png", PHOTO), prompt="", size="huge")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sf_wrong").models.list()
