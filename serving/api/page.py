"""The page's files and the package's example photos; they need no key."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

import factory
from serving.errors import ApiError

router = APIRouter(include_in_schema=False)
PAGE = Path(__file__).resolve().parents[1] / "page"
SAMPLES = Path(factory.__file__).resolve().parent / "examples" / "photos"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
FILES = {p.name: p for p in PAGE.iterdir() if p.suffix in MEDIA}
SAMPLE_FILES = {p.name: p for p in sorted(SAMPLES.glob("*.png"))}
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@router.get("/")
async def page() -> Response:
    return _file(FILES["index.html"])


@router.get("/docs")
async def docs() -> Response:
    return _file(FILES["api.html"])


@router.get("/page/samples/{name}")
async def sample(name: str) -> Response:
    return _file(_found(SAMPLE_FILES, name))


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    return _file(_found(FILES, name))


def _found(files: dict[str, Path], name: str) -> Path:
    if name not in files:
        raise ApiError(404, f"there is no {name[:64]!r}", field="path")
    return files[name]


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=MEDIA[path.suffix],
                    headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache",
                             "X-Content-Type-Options": "nosniff"})  # fmt: skip
