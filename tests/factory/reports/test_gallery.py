"""The HTML report of a run: completeness, self-containment, nesting, and escaping."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from factory.reports.charts import MAX_POINTS, downsample
from factory.reports.gallery import (
    Gallery,
    GalleryStyle,
    duration,
    render,
    thumbnail,
    write_gallery,
)

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
EVIL = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Parses a page: checks that tags nest, and stores elements and the text of each tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.text[where] = self.text.get(where, "") + data

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        wanted = {k.rstrip("_"): v for k, v in attrs.items()}
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


def png(shade: int) -> bytes:
    """A PNG that no other shade makes."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 255 - shade, 2 * shade % 251)).save(buffer, "png")
    return buffer.getvalue()


def style(number: int, **changes: object) -> GalleryStyle:
    made = GalleryStyle(
        id=f"ink-{number}",
        state="registered",
        version="3",
        champion=True,
        style_png=png(10 * number),
        counterpart_png=png(10 * number + 1),
        stylized=(png(10 * number + 2), png(10 * number + 3)),
        losses={
            "recon_l1": [3.0, 2.0, 1.0],
            "structure": [0.0] * 3,
            "total": [4.0, 2.5, 1.5],
        },
        metrics={"style distance": 0.123456},
        settings={"iterations": 3, "lr_unet": 5e-6, "dropout": False, "content_cutoff": None},
        provenance={"source": "https://example.org/ink.png", "tags": ["a", "b"]},
        seconds=130.0,
        reason=None,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def gallery(*styles: GalleryStyle, **changes: object) -> Gallery:
    made = Gallery(
        title="A run",
        created="2025-03-03 14:20",
        base="portraits64",
        photos=(("ada.jpg", png(200)), ("bob.jpg", png(201))),
        styles=styles,
        summary={"styles": len(styles), "failed": 0, "wall time": "2 min 10 s"},
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def points(path: str | None) -> int:
    return len(re.findall(r"[ML]", path or ""))


FAILED = {
    "state": "failed",
    "version": None,
    "champion": False,
    "counterpart_png": None,
    "stylized": (None, None),
    "reason": "NaN in the total loss at iteration 2",
}


def test_every_image_is_embedded(tmp_path: Path) -> None:
    run = gallery(style(1), style(2), style(3, **FAILED))
    write_gallery(tmp_path / "deep" / "run.html", run)
    page = Page((tmp_path / "deep" / "run.html").read_text(encoding="utf-8"))
    sources = [a["src"] or "" for a in page.all("img")]
    images = [base64.b64decode(s.removeprefix("data:image/webp;base64,")) for s in sources]
    for _, photo in run.photos:
        assert images.count(thumbnail(photo)) == 1
    for s in run.styles:
        assert images.count(thumbnail(s.style_png)) == 2  # in the matrix and on its card
        for image in filter(None, (s.counterpart_png, *s.stylized)):
            assert images.count(thumbnail(image)) == 1
    assert len(images) == 2 + 3 * 2 + 2 * (1 + 2)
    assert all(a["alt"] and a["loading"] == "lazy" for a in page.all("img"))
    assert len(page.all("article", class_="card")) == 3
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run.html"]


def test_the_page_loads_nothing_from_the_network() -> None:
    html = render(gallery(style(1), style(2, **FAILED)))
    page = Page(html)
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "style"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    for word in ("url(", "@import", "fetch(", "XMLHttpRequest", "<iframe", "<base"):
        assert word not in html
    # The only URL in the page is the text of a provenance value.
    assert re.findall(r"https?://[^<\s]*", html) == ["https://example.org/ink.png"] * 2
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:;")


def test_links_have_targets() -> None:
    page = Page(render(gallery(style(1), style(2))))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)


def test_user_texts_are_escaped() -> None:
    evil = style(
        1,
        id=EVIL,
        version=EVIL,
        losses={EVIL: [1.0], "total": [1.0]},
        metrics={EVIL: 1.0},
        settings={EVIL: EVIL, "$title": "$cards"},
        provenance={EVIL: {EVIL: [EVIL]}},
        reason=EVIL,
    )
    failed = style(2, **{**FAILED, "id": EVIL, "reason": EVIL})
    made = gallery(evil, failed, title=EVIL, created=EVIL, base=EVIL, summary={EVIL: EVIL})
    html = render(dataclasses.replace(made, photos=((EVIL, png(1)), ("b", png(2)))))
    page = Page(html)
    assert html.count("<script>") == 1 and "<script>alert" not in html
    assert len(page.all("script")) == 1
    assert page.text["h1"] == page.text["title"] == EVIL
    assert page.text["h3"] == EVIL * 2
    assert {a["data-id"] for a in page.all("article")} == {EVIL.lower()}
    assert any(a["alt"] == f"Photo {EVIL}" for a in page.all("img"))
    assert "$cards" in html


def test_failed_style_is_listed_with_its_reason() -> None:
    page = Page(render(gallery(style(1), style(2, **FAILED), summary={"failed": 1})))
    assert page.text["span"].count("NaN in the total loss at iteration 2") == 2
    assert len(page.all("article", **{"data-state": "failed"})) == 1
    assert len(page.all("tr", **{"data-state": "failed"})) == 1
    assert page.all("div", class_="alarm")
    assert [a["value"] for a in page.all("input", name="state")] == ["", "registered", "failed"]


def test_failed_style_without_image_or_reason() -> None:
    page = Page(render(gallery(style(1, **{**FAILED, "style_png": b"", "reason": None}))))
    assert "no reason was recorded" in page.text["span"]
    assert "no image" in page.text["span"]


def test_missing_images_have_placeholders() -> None:
    page = Page(render(gallery(style(1, stylized=(None,), counterpart_png=None))))
    assert len(page.all("td", class_="wide")) == 0
    assert page.text["span"].count("no image") == 2


def test_loss_curves_have_one_point_per_iteration() -> None:
    page = Page(render(gallery(style(1))))
    (curve,) = page.all("path", class_="curve")
    assert points(curve["d"]) == 3
    # x grows from left to right, and y too, because the loss falls.
    numbers = [float(n) for n in re.findall(r"[\d.]+", curve["d"] or "")]
    assert numbers[0::2] == sorted(numbers[0::2]) and numbers[1::2] == sorted(numbers[1::2])
    # The total with its area, and recon_l1; structure is zero throughout.
    assert [points(a["d"]) for a in page.all("path")] == [5, 3, 3]
    assert "recon_l1" in page.text["th"] and "structure" not in page.text["th"]
    (chart,) = page.all("svg", role="img")
    expected = "Total loss: 4 at the first and 1.5 at the last of 3 iterations"
    assert chart["aria-label"] == expected


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([1.0], 1),
        ([0.0, 0.0], 2),
        ([5.0, math.nan, 4.0, math.inf], 2),
        ([math.nan], 0),
        ([-1.0, -2.0], 2),
        ([1e-30, 1e30], 2),
        ([float(i) for i in range(10 * MAX_POINTS + 3)], MAX_POINTS),
    ],
)
def test_any_losses_can_be_drawn(values: list[float], count: int) -> None:
    page = Page(render(gallery(style(1, losses={"total": values, "part": values}))))
    (curve,) = page.all("path", class_="curve")
    assert points(curve["d"]) == count
    assert "nan" not in (curve["d"] or "") and "inf" not in (curve["d"] or "")


def test_downsampling_keeps_the_mean() -> None:
    values = [float(i % 7) for i in range(4 * MAX_POINTS)]
    assert len(downsample(values)) == MAX_POINTS
    assert sum(downsample(values)) / MAX_POINTS == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize("changes", [{"styles": ()}, {"photos": ()}])
def test_runs_without_styles_or_photos(changes: dict[str, object]) -> None:
    page = Page(render(gallery(style(1), **changes)))
    assert not page.all("div", class_="matrix")
    assert ("This run has no styles." in page.text.get("p", "")) == ("styles" in changes)


def test_values_are_formatted() -> None:
    page = Page(render(gallery(style(1))))
    assert "0.1235" in page.text["td"]
    for text in ("5e-06", "no", "–", '["a", "b"]'):  # noqa: RUF001
        assert text in page.text["dd"]
    assert "version 3 · 2 min 10 s" in page.text["span"]
    assert [duration(s) for s in (4.24, 59.96, 130, 3599.7, 3900)] == [
        "4.2 s",
        "1 min 0 s",
        "2 min 10 s",
        "1 h 00 min",
        "1 h 05 min",
    ]


def test_names_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    write_gallery(tmp_path / "g.html", gallery(style(1, id="caf\udce9")))
    assert "caf?" in (tmp_path / "g.html").read_text(encoding="utf-8")
