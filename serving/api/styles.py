"""GET /v1/styles, one style, its preview, and /v1/info."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from factory.methods import base_facts, mix_defaults
from factory.methods.text_edits import text_edit_names
from factory.registry import StyleVersion
from osasis.errors import UserError
from serving.api.common import authorised
from serving.api.page import SAMPLE_FILES
from serving.controls import controls
from serving.errors import ApiError
from serving.schemas import ERRORS, StylesAnswer
from serving.served_styles import ListedStyle
from serving.service import Service, current

router = APIRouter(tags=["styles"])


@router.get("/v1/styles", responses=ERRORS)
async def styles(
    request: Request,
    offset: Annotated[
        int, Query(ge=0, le=10_000_000, description="number of styles to skip; default 0")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=200, description="styles of a page; default 50")] = 50,
    q: Annotated[
        str, Query(max_length=200, description="words to find in id, tags and licence")
    ] = "",
    tag: Annotated[list[str], Query(max_length=20, description="tags that a style must have")] = [],  # noqa: B006
) -> StylesAnswer:
    """Registered styles of the served base, by id, one page per request."""
    service, _ = authorised(request)
    total, found = service.catalog.page(offset, limit, q, tag)
    end = offset + len(found)
    return StylesAnswer(
        styles=[s.row() for s in found],
        total=total,
        offset=offset,
        next_offset=end if end < total else None,
    )


@router.get("/v1/styles/{style}", responses=ERRORS)
async def style(style: str, request: Request) -> dict[str, Any]:
    """One style with its settings, its metrics, and as ``mix`` what a mix takes from it where it
    sets nothing."""
    service, _ = authorised(request)
    listed = _listed(service, style)
    details = await asyncio.to_thread(_details, service, listed)
    return {**listed.row().model_dump(), **details}


@router.get("/v1/styles/{style}/preview", response_class=Response, responses={
    200: {"content": {"image/png": {}}}, **ERRORS})  # fmt: skip
async def preview(
    style: str,
    kind: Annotated[
        Literal["style", "counterpart", "stylized"],
        Query(
            description="which image; default `style`. A style without examples shows its style "
            "image as `stylized`"
        ),
    ] = "style",
    version: Annotated[
        int | None, Query(ge=1, le=10**9, description="default: the served version")
    ] = None,
) -> Response:
    """The style image, its photo counterpart or an example photo in the style, as PNG; needs no
    key."""
    service = current()
    listed = _listed(service, style)
    try:
        found = listed.version
        if version is not None and version != found.version:
            found = await asyncio.to_thread(service.catalog.registry.get, style, str(version))
        data = await asyncio.to_thread(lambda: _picture(found, kind).read_bytes())
    except UserError as e:
        raise ApiError(404, str(e), field="version", value=version) from None
    except Exception:
        raise ApiError(404, f"style {style!r} has no {kind} image", field="kind") from None
    age = 86400 if version is not None else 5
    return Response(data, media_type="image/png",
                    headers={"Cache-Control": f"private, max-age={age}"})  # fmt: skip


@router.get("/v1/info", responses=ERRORS)
async def info(request: Request) -> dict[str, Any]:
    """The base, its method, the fields of its mixes and their controls, the limits, the names of
    text edits, the paths of example photos, and whether texts name masks."""
    service, _ = authorised(request)
    edits = await asyncio.to_thread(text_edit_names, service.home)
    return {
        "base": service.info["name"],
        "fingerprint": service.info["fingerprint"],
        **base_facts(service.info),
        "makes_styles": service.makes_styles,
        "names_masks": service.config.segmenter.clip is not None,
        "text_edits": edits,
        "controls": controls(base_facts(service.info), service.config.limits, edits),
        "samples": [f"/page/samples/{name}" for name in SAMPLE_FILES],
        "limits": vars(service.config.limits),
        "styles": len(service.catalog.styles),
        "registry_error": service.catalog.error,
    }


def _picture(version: StyleVersion, kind: str) -> Path:
    """File of a version's picture."""
    if kind == "stylized" and (examples := version.previews()):
        return examples[0]
    name = "style" if kind == "stylized" else kind
    return version.folder() / f"{name}.png"


def _listed(service: Service, style: str) -> ListedStyle:
    listed = service.catalog.styles.get(style)
    if listed is None:
        raise ApiError(404, f"there is no style {style[:64]!r}", field="style", value=style,
                       allowed="GET /v1/styles lists them")  # fmt: skip
    return listed


def _details(service: Service, listed: ListedStyle) -> dict[str, Any]:
    """Settings and metrics of the style's MLflow run, and its mix; empty if unreadable."""
    found: dict[str, Any] = {"settings": {}, "metrics": {}, "mix": {}}
    with contextlib.suppress(Exception):
        run = service.catalog.registry.client.get_run(listed.version.run_id)
        found |= {"settings": dict(run.data.params), "metrics": dict(run.data.metrics)}
    with contextlib.suppress(UserError, OSError):
        found["mix"] = mix_defaults(listed.version.folder(), service.info)
    return found
