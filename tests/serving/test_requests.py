"""What clients send: encodings of bodies and forms, headers, methods, and the errors' texts."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
from typing import Any

import pytest
from PIL import Image

from serving.auth import new_key
from tests.serving.conftest import Server, photo_bytes, wait_until
from tests.serving.test_http import INK, error_of

JSON = {"Content-Type": "application/json"}
PHOTO = photo_bytes(830)
BODY = {"images": [base64.b64encode(PHOTO).decode()], "mix": INK}
MIX = json.dumps(INK).encode()


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A multipart form of parts with these Content-Dispositions."""
    body = b"".join(
        f"--limit\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    return {"content": body + b"--limit--\r\n", "headers": kind}


@pytest.fixture(scope="module")
def plain(server: Server) -> bytes:
    """The answer to ``BODY``."""
    answer = server.post("/v1/stylize", json=BODY)
    assert answer.status_code == 200, answer.text
    return answer.content


def lines_without_padding() -> str:
    text = base64.b64encode(PHOTO).decode().rstrip("=")
    return "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))


EQUAL: dict[str, dict[str, Any]] = {
    "gzip": {
        "content": gzip.compress(json.dumps(BODY).encode()),
        "headers": {**JSON, "Content-Encoding": "gzip"},
    },
    "byte order mark": {"content": b"\xef\xbb\xbf" + json.dumps(BODY).encode(), "headers": JSON},
    "base64 in lines without padding": {"json": {**BODY, "images": [lines_without_padding()]}},
    "data URL": {"json": {**BODY, "images": [f"data:image/png;base64,{BODY['images'][0]}"]}},
    "a picture without a file name": form(('name="image"', PHOTO), ('name="mix"', MIX)),
    "the mix as a file": form(('name="image"', PHOTO), ('name="mix"; filename="m.json"', MIX)),
    "image[]": form(('name="image[]"', PHOTO), ('name="mix"', b"\xef\xbb\xbf" + MIX)),
}


@pytest.mark.parametrize("case", EQUAL)
def test_ways_to_send_the_same_request(server: Server, plain: bytes, case: str) -> None:
    answer = server.post("/v1/stylize", **EQUAL[case])
    assert answer.status_code == 200, answer.text
    assert answer.content == plain


def test_encodings_of_bodies_are_limited(server: Server) -> None:
    zipped = {**JSON, "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 60_000_000)
    assert len(bomb) < 100_000
    error = error_of(server.post("/v1/stylize", content=bomb, headers=zipped), 413)
    assert error["allowed"] == "at most 25,000,000 bytes"
    cut = gzip.compress(json.dumps(BODY).encode())[:-9]
    error_of(server.post("/v1/stylize", content=cut, headers=zipped), 400)
    error_of(server.post("/v1/stylize", content=b"no gzip", headers=zipped), 400)
    other = {**JSON, "Content-Encoding": "br"}
    error = error_of(server.post("/v1/stylize", content=b"x", headers=other), 415)
    assert (error["field"], error["allowed"]) == ("Content-Encoding", ["gzip", "identity"])


def test_parts_that_nothing_names_are_refused(server: Server) -> None:
    masked = json.dumps({"styles": [{"style": "ink", "mask": "m"}]}).encode()
    image, mask = (
        ('name="image"; filename="p.png"', PHOTO),
        ('name="mask.m"; filename="m.png"', PHOTO),
    )
    for parts, field in (
        ((image, mask, ('name="mix"', MIX)), "masks"),
        ((image, mask, mask, ('name="mix"', masked)), "mask.m"),
        ((image, ('name="mask"; filename="m.png"', PHOTO), ('name="mix"', MIX)), "mask"),
        ((image, ('name="foo"', b"1"), ('name="mix"', MIX)), "foo"),
        ((image, ('name="photo"; filename="q.png"', PHOTO), ('name="mix"', MIX)), "photo"),
        ((image, ('name="mix"', MIX), ('name="mix"', MIX)), "mix"),
    ):
        assert error_of(server.post("/v1/stylize", **form(*parts)), 422)["field"] == field


def test_accept_excludes_types_of_quality_zero(server: Server) -> None:
    def media(accept: str) -> str:
        kind: str = server.post("/v1/stylize", json=BODY, headers={"Accept": accept}).headers[
            "content-type"
        ]
        return kind

    assert media("image/png;q=0, */*") == "image/jpeg"
    assert media("image/*;q=0, application/json") == "application/json"
    assert media("*/*;q=0.1, image/webp") == "image/webp"
    answer = server.post("/v1/stylize", json=BODY, headers={"Accept": "image/png;q=0"})
    assert error_of(answer, 406)["field"] == "Accept"


def test_head_and_options(server: Server) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/v1/styles", "/v1/info", "/openapi.json"):
        head = server.request("HEAD", path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == server.get(path).headers["content-type"]
    options = server.request("OPTIONS", "/v1/stylize")
    assert options.status_code == 204 and options.headers["allow"] == "POST"
    error = error_of(server.request("PUT", "/v1/stylize"), 405)
    assert (error["field"], error["value"], error["allowed"]) == ("method", "PUT", "POST")
    assert error_of(server.request("FOO", "/v1/stylize"), 405)["value"] == "FOO"
    assert error_of(server.get("/v1/styles?q=" + "a" * 50_000), 414)["message"]


def test_other_origins_are_allowed_by_setting(server: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    known, other = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    preflight = server.request("OPTIONS", "/v1/stylize", headers={**known, **asked})
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    answer = server.post("/v1/stylize", json=BODY, headers=known)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "X-Encoding" in answer.headers["access-control-expose-headers"]
    for denied in (
        server.request("OPTIONS", "/v1/stylize", headers={**other, **asked}),
        server.get("/v1/styles", headers=other),
    ):
        assert "access-control-allow-origin" not in denied.headers


def test_errors_are_short_and_name_what_is_allowed(server: Server) -> None:
    long = "x" * 5000
    for mix in ({"styles": ["ink"], long: 1}, {"styles": ["ink"], "strength": long}):
        answer = server.post("/v1/stylize", json={**BODY, "mix": mix})
        assert error_of(answer, 422) and len(answer.content) < 3000
    for path, allowed in (
        ("/v1/styles?limit=abc", "a whole number"),
        ("/v1/styles?limit=0", "a number from 1"),
        ("/v1/styles?limit=201", "a number of at most 200"),
        (f"/v1/styles?q={'a' * 300}", "at most 200 characters"),
        ("/v1/styles/ink/preview?kind=foo", "one of 'style', 'counterpart' or 'stylized'"),
    ):
        error = error_of(server.get(path), 422)
        assert error["allowed"] == allowed and "should" not in error["message"]
    text = server.post("/v1/stylize", json={**BODY, "mix": {"styles": ["ink"], "strength": True}})
    assert error_of(text, 422)["message"].startswith("mix.strength is true; ")


def test_contradictory_mixes_are_refused(server: Server) -> None:
    def refused(**mix: Any) -> dict[str, Any]:
        body = {**BODY, "mix": {"styles": ["ink"], **mix}}
        return error_of(server.post("/v1/stylize", json=body), 422)

    assert refused(content_cutoff=16, level_weights=[1, 1, 0])["field"] == "mix.level_weights"
    assert refused(styles=["ink", "ink:1"])["field"] == "mix.styles[1].style"
    assert refused(styles=["ink", "ink@champion"])["message"] == (
        "ink and ink@champion are the same version"
    )


def test_ids_of_photos_belong_to_their_key(server: Server, keys: dict[str, str]) -> None:
    key = server.post("/v1/encodings", files={"image": ("p.png", PHOTO)}).json()
    body = {"encodings": [key["encodings"][0]["id"]], "mix": INK}
    assert server.post("/v1/stylize", json=body).status_code == 200
    carol = new_key(keys["file"], "carol", 100)
    other = {"Authorization": f"Bearer {carol}"}
    # The server follows the key file.
    wait_until(lambda: server.get("/v1/styles", headers=other).status_code == 200, 10)
    error_of(server.post("/v1/stylize", json=body, headers=other), 404)


def test_idle_uploads_keep_nobody_out(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/stylize HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: {server.headers['Authorization']}\r\nContent-Length: 25000000\r\n\r\n{{"
    )
    idle = [socket.create_connection((host, int(port))) for _ in range(12)]
    try:
        for client in idle:
            client.sendall(head.encode())
        wait_until(lambda: server.metric("open_requests") >= 12, 10)
        answer = server.post("/v1/stylize", json=BODY)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == (40, 48)
    finally:
        for client in idle:
            client.close()
