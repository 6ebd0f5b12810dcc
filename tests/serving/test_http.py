"""Every endpoint over HTTP on a real Ray Serve."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osasis.bundles.provenance import read_provenance
from tests.serving.conftest import Server, photo_bytes, pixels, wait_until

INK: dict[str, Any] = {"styles": ["ink"]}


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["status"] == status and error["message"]
    return error


def test_stylize_one_photo(server: Server) -> None:
    answer = server.stylize(photo_bytes(), INK)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-style-version"] == "ink:1"
    assert float(answer.headers["x-decode-seconds"]) > 0
    assert json.loads(answer.headers["x-mix"])["strength"] is None
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (40, 48)
    assert answer.headers["x-photo-size"] == answer.headers["x-image-size"] == "40x48"
    assert "x-faces" not in answer.headers
    provenance = read_provenance(answer.content)
    assert provenance is not None and [s.reference for s in provenance.styles] == ["ink:1"]
    assert (provenance.size, provenance.fit, provenance.format) == ("photo", "crop", "png")
    other = server.stylize(photo_bytes(), {"styles": ["ink"], "strength": 0.2})
    assert np.abs(pixels(other.content) - pixels(answer.content)).max() > 0.02


@pytest.mark.parametrize(("media", "kind"), [("image/jpeg", "JPEG"), ("image/webp", "WEBP")])
def test_accept_selects_the_media_type(server: Server, media: str, kind: str) -> None:
    answer = server.stylize(photo_bytes(), INK, headers={"Accept": f"{media}, */*;q=0.1"})
    assert answer.headers["content-type"] == media
    assert Image.open(io.BytesIO(answer.content)).format == kind
    provenance = read_provenance(answer.content)
    assert provenance is not None and (provenance.format, provenance.quality) == (kind.lower(), 95)


def test_encoding_ids_replace_photos_in_json_requests(server: Server) -> None:
    files = {"image": ("p.png", photo_bytes(501), "image/png")}
    made = server.post("/v1/encodings", files=files, data={"style": "ink"})
    assert made.status_code == 200, made.text
    (row,) = made.json()["encodings"]
    key, size = row["id"], row["size"]
    assert size == [40, 48]
    by_id = server.post("/v1/stylize", json={"encodings": [key], "mix": INK})
    assert by_id.status_code == 200, by_id.text
    assert by_id.headers["x-encoding-cached"] == "1"
    assert float(by_id.headers["x-encode-seconds"]) == 0
    direct = server.stylize(photo_bytes(501), INK)
    assert np.array_equal(pixels(direct.content), pixels(by_id.content))
    text = base64.b64encode(photo_bytes(502)).decode()
    both = server.post("/v1/stylize", json={"encodings": [key], "images": [text], "mix": INK})
    rows = both.json()["images"]
    assert len(rows) == 2 and both.json()["styles"] == ["ink:1"]
    told = [(r["size"], r["photo_size"], r["faces"]) for r in rows]
    assert told == [([40, 48], [40, 48], None)] * 2
    found = {r["encoding"]: base64.b64decode(r["image"]) for r in rows}
    assert np.abs(pixels(found[key]) - pixels(by_id.content)).max() < 1e-3


def test_a_batch_of_mixed_styles_equals_single_requests(server: Server) -> None:
    mixes: list[dict[str, Any]] = [
        {"styles": ["ink"]},
        {"styles": ["oil"]},
        {"styles": [{"style": "ink", "weight": 2.0}, "sepia"], "strength": 0.7},
        {"styles": ["oil", "sepia"], "blend": "noise", "level_weights": [0.0, 1.0, 1.0]},
    ]
    photos = [photo_bytes(510 + i) for i in range(4)]
    alone = [server.stylize(p, m) for p, m in zip(photos, mixes, strict=True)]
    assert [a.status_code for a in alone] == [200] * 4, [a.text for a in alone]

    def again(i: int) -> Any:
        return server.stylize(photos[i % 4], mixes[i % 4])

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(again, range(16)))
    # Images of different mixes wait together; a forward pass on the CPU takes one.
    assert {t.headers["x-batch-size"] for t in together} == {"1"}
    for i, answer in enumerate(together):
        difference = pixels(answer.content) - pixels(alone[i % 4].content)
        assert np.abs(difference).max() < 1e-3
    # A repeated request gives the same image.
    assert np.array_equal(pixels(again(0).content), pixels(alone[0].content))
    assert np.abs(pixels(alone[0].content) - pixels(alone[1].content)).max() > 0.1


def test_a_mask_limits_its_style(server: Server) -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    photo = photo_bytes(520, (32, 32))
    files = [("image", ("p.png", photo)), ("mask.left", ("m.png", buffer.getvalue()))]
    mix = {"styles": [{"style": "oil", "mask": "left"}]}
    answer = server.post("/v1/stylize", files=files, data={"mix": json.dumps(mix)})
    assert answer.status_code == 200, answer.text
    change = np.abs(pixels(answer.content) - pixels(photo))
    assert change[:, 16:].max() < 0.005 and change[:, :16].max() > 0.1


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_transparency_of_a_mask_is_the_mask_or_is_refused(server: Server) -> None:
    inside = np.zeros((32, 32, 1), bool)
    inside[8:24, 8:24] = True
    photo = photo_bytes(507, (32, 32))
    mix = {"mix": json.dumps({"styles": [{"style": "oil", "mask": "a"}]})}

    def masked(array: np.ndarray) -> Any:
        return server.post(
            "/v1/stylize", data=mix,
            files=[("image", ("p.png", photo)), ("mask.a", ("m.png", png(array)))],
        )  # fmt: skip

    grey = masked(np.where(inside[..., 0], 255, 0))
    layer = masked(np.where(inside, [255] * 4, [255, 255, 255, 0]))
    assert grey.status_code == layer.status_code == 200, layer.text
    assert (pixels(grey.content) == pixels(layer.content)).all()
    for black in (np.where(inside, [0, 0, 0, 255], 0), np.where(inside, 0, [0, 0, 0, 255])):
        error = error_of(masked(black), 422)
        assert error["field"] == "masks.a"
        assert "where the mask is opaque, or where it is transparent" in error["message"]
    error = error_of(masked(np.zeros((16, 32))), 422)
    assert "has 32x16 pixels, but the photo has 32x32" in error["message"]


def test_transparency_is_kept_or_laid_over_white(server: Server) -> None:
    square = np.asarray(Image.open(io.BytesIO(photo_bytes(508, (32, 32)))).convert("RGBA")).copy()
    square[:, :10, 3] = 0
    photo = png(square)
    form = {"image": ("sub/p.png", photo, "image/png")}
    data = {"mix": json.dumps(INK)}

    def image(answer: Any) -> Image.Image:
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content))

    kept = server.post("/v1/stylize", files=form, data=data)
    assert image(kept).mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image(kept))[..., 3], square[..., 3])
    webp = server.post("/v1/stylize", files=form, data=data, headers={"Accept": "image/webp"})
    np.testing.assert_array_equal(np.asarray(image(webp))[..., 3], square[..., 3])
    dropped = server.post("/v1/stylize", files=form, data={**data, "alpha": "drop"})
    white = np.where(square[..., 3:] == 0, 255, square[..., :3])
    same = server.post("/v1/stylize", files={"image": ("p.png", png(white))}, data=data)
    assert image(dropped).mode == "RGB"
    assert image(dropped).tobytes() == image(same).tobytes()
    jpeg = server.post("/v1/stylize", files=form, data=data, headers={"Accept": "image/jpeg"})
    assert image(jpeg).mode == "RGB"
    error = error_of(
        server.post("/v1/stylize", files=form, data={**data, "alpha": "keep"},
                    headers={"Accept": "image/jpeg"}), 422,
    )  # fmt: skip
    assert error["field"] == "alpha"
    # The stored photo can be answered either way.
    key = kept.headers["x-encoding"]
    assert key == dropped.headers["x-encoding"] == jpeg.headers["x-encoding"]
    by_id = {"encodings": [key], "mix": INK}
    again = server.post("/v1/stylize", json=by_id)
    assert again.content == kept.content
    again = server.post("/v1/stylize", json={**by_id, "alpha": "drop"})
    assert again.content == dropped.content
    told = [read_provenance(a.content) for a in (kept, dropped, jpeg, same)]
    assert [t and t.alpha for t in told] == ["keep", "drop", None, None]


def test_provenance_tells_as_much_as_asked(server: Server) -> None:
    form = {"image": ("anna/scan.png", photo_bytes(509), "image/png")}
    told = {}
    for level in ("style", "full", "none"):
        data = {"mix": json.dumps(INK), "provenance": level}
        answer = server.post("/v1/stylize", files=form, data=data)
        found = read_provenance(answer.content)
        told[level] = found and found.source
    assert told == {"style": "scan.png", "full": "anna/scan.png", "none": None}


def test_a_job_runs_until_done(server: Server) -> None:
    files = [("image", (f"{i}.png", photo_bytes(530 + i))) for i in range(3)]
    sent = server.post("/v1/jobs", files=files, data={"mix": json.dumps(INK)})
    assert sent.status_code == 202, sent.text
    where = sent.headers["location"]
    assert sent.json()["state"] in ("queued", "running")
    done = wait_until(lambda: (j := server.get(where).json())["state"] == "done" and j)
    assert done["done"] == 3 and len(done["results"]) == 3
    image = server.get(done["results"][1])
    assert image.headers["content-type"] == "image/png"
    direct = server.stylize(photo_bytes(531), INK)
    assert np.array_equal(pixels(image.content), pixels(direct.content))
    error_of(server.get("/v1/jobs/none"), 404)
    error_of(server.get(f"{where}/images/7"), 404)


def test_styles_are_listed_and_searched(server: Server) -> None:
    first = server.get("/v1/styles", params={"limit": 2}).json()
    assert [s["id"] for s in first["styles"]] == ["ink", "oil"]
    assert first["total"] >= 3 and first["next_offset"] == 2
    rest = server.get("/v1/styles", params={"offset": 2, "limit": 1}).json()
    assert [s["id"] for s in rest["styles"]] == ["sepia"]
    end = server.get("/v1/styles", params={"offset": 1, "limit": 200}).json()
    assert end["next_offset"] is None and len(end["styles"]) == end["total"] - 1
    assert [s["id"] for s in server.get("/v1/styles?tag=paint").json()["styles"]] == ["oil"]
    assert [s["id"] for s in server.get("/v1/styles?q=SEP").json()["styles"]] == ["sepia"]
    one = server.get("/v1/styles/oil").json()
    assert one["metrics"] == {"loss": 1.0} and one["licence"] == "CC0"
    preview = server.get(one["preview"])
    assert Image.open(io.BytesIO(preview.content)).size == (32, 32)
    error_of(server.get("/v1/styles/gone"), 404)
    error_of(server.get("/v1/styles/oil/preview?version=9"), 404)
    error_of(server.get("/v1/styles?limit=0"), 422)


def test_health_metrics_and_openapi(server: Server) -> None:
    assert server.get("/healthz").json() == {"status": "ok"}
    assert server.get("/readyz").json()["status"] == "ready"
    server.stylize(photo_bytes(), INK)
    text = wait_until(
        lambda: "style_factory_engine_images_total" in (t := server.get("/metrics").text) and t
    )
    assert "# TYPE style_factory_request_seconds histogram" in text
    document = server.get("/openapi.json").json()
    content = document["paths"]["/v1/stylize"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert content["application/json"]["example"]["mix"]["strength"] == 0.8
    page = server.get("/")
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    error_of(server.get("/nowhere"), 404)
    error_of(server.get("/v1/stylize"), 405)


BAD_MIXES: list[tuple[dict[str, Any], str]] = [
    ({"styles": ["ink"], "strength": 9}, "mix.strength"),
    ({"styles": ["ink"], "strength": "much"}, "mix.strength"),
    ({"styles": ["ink"], "strenght": 1}, "mix.strenght"),
    ({"styles": []}, "mix.styles"),
    ({"styles": [{"style": "ink", "weight": 0}]}, "mix.styles[0].weight"),
    ({"styles": ["inc"]}, "mix.styles[0].style"),
    ({"styles": ["ink:7"]}, "mix.styles[0].style"),
    ({"styles": ["ink", "ink"]}, "mix.styles"),
    ({"styles": ["a", "b", "c", "d", "e"]}, "mix.styles"),
    ({"styles": ["ink"], "decode_steps": 999}, "mix.decode_steps"),
    ({"styles": ["ink"], "level_weights": [1.0]}, "mix.level_weights"),
    ({"styles": ["ink"], "text_edit": "smile"}, "mix.text_edit"),
    ({"styles": [{"style": "ink", "mask": "sky"}]}, "masks"),
    ({}, "mix.styles"),
]


@pytest.mark.parametrize(("mix", "field"), BAD_MIXES, ids=[str(m)[:50] for m, _ in BAD_MIXES])
def test_an_invalid_mix_is_refused_with_its_field(
    server: Server, mix: dict[str, Any], field: str
) -> None:
    error = error_of(server.stylize(photo_bytes(), mix), 422)
    assert error["field"] == field
    if field == "mix.strength" and mix["strength"] == 9:
        assert error["value"] == 9 and "4" in error["allowed"]
    if mix.get("styles") == ["inc"]:
        assert "nearest: ink" in error["message"]


def test_invalid_requests_are_refused(server: Server) -> None:
    good = photo_bytes()
    error_of(server.post("/v1/stylize", content=b"x", headers={"Content-Type": "text/plain"}), 415)
    as_json = {"Content-Type": "application/json"}
    error_of(server.post("/v1/stylize", content=b"{", headers=as_json), 400)
    error_of(server.post("/v1/stylize", content=b"[]", headers=as_json), 422)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    error_of(server.post("/v1/stylize", content=b"junk", headers=form), 400)
    error_of(server.stylize(good, INK, headers={"Accept": "text/html"}), 406)
    unknown = {"encodings": ["0" * 32], "mix": INK}
    assert "again" in error_of(server.post("/v1/stylize", json=unknown), 404)["message"]
    address = {"images": ["http://127.0.0.1/x.png"], "mix": INK}
    assert error_of(server.post("/v1/stylize", json=address), 422)["field"] == "images[0]"
    error_of(server.post("/v1/stylize", json={"images": [], "mix": INK}), 422)
    many = {"images": [base64.b64encode(good).decode()] * 9, "mix": INK}
    assert error_of(server.post("/v1/stylize", json=many), 422)["value"] == 9
    for data, status in (
        (b"", 415),
        (b"%PDF-1.7", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (good[: len(good) // 2], 422),
        (photo_bytes(size=(5, 5)), 422),
        (bomb(), 413),
        (animation(), 422),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 26_000_000, 413),
    ):
        error_of(server.stylize(data, INK), status)
    extra = [("image", ("p.png", good)), ("photo", ("q.png", good))]
    bad = server.post("/v1/stylize", files=extra, data={"mix": json.dumps(INK)})
    assert error_of(bad, 422)["field"] == "photo"


def bomb() -> bytes:
    """A PNG with 60,000 x 60,000 pixels in its header."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def test_the_log_is_json_without_image_data(server: Server) -> None:
    answer = server.stylize(photo_bytes(), INK)
    wanted = answer.headers["x-log-id"]

    def mine_in(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((line for line in lines if line["request"] == wanted), None)

    # The line is written after the answer is sent.
    wait_until(lambda: mine_in(logged(server)), 10)
    lines = logged(server)
    mine = mine_in(lines)
    assert mine is not None
    assert mine["status"] == 200 and mine["route"] == "/v1/stylize" and mine["seconds"] > 0
    assert max(len(json.dumps(line)) for line in lines) < 1500


def logged(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]
