"""The bodies of the endpoints as validated requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request

from osasis.choices import ImageFormat, Provenance
from osasis.images.photo_options import PhotoOptions
from osasis.mix import Mix
from osasis.validation import InputModel, InvalidInputError
from serving.body_bytes import read_body
from serving.config import Limits
from serving.errors import ApiError, invalid
from serving.forms import (
    SentBody,
    SentFile,
    from_base64,
    parse_body,
    parse_json,
    reject_other_files,
    sent_images,
)
from serving.request_masks import REGIONS
from serving.schemas import (
    EncodingsBody,
    FacesBody,
    JobBody,
    MasksBody,
    NewStyleBody,
    StylizeBody,
)

M = TypeVar("M", bound=InputModel)
S = TypeVar("S", bound=StylizeBody)
Reserve = Callable[[int], None]
# How a mix names the style of the request's own style image.
OWN_STYLE = "image"


@dataclass(frozen=True)
class StylizeRequest:
    """A validated body of POST /v1/stylize or /v1/jobs; style names are not checked yet.

    style_image: from which the style ``OWN_STYLE`` of the mix is to be made. encodings: ids of
    stored photos. masks: files by name.
    """

    mix: Mix
    photos: list[SentFile]
    encodings: list[str]
    masks: dict[str, bytes]
    options: PhotoOptions
    provenance: Provenance
    style_image: SentFile | None = None

    @property
    def count(self) -> int:
        """Number of photos."""
        return len(self.photos) + len(self.encodings)

    def keeps_alpha(self, kind: ImageFormat) -> bool:
        """Whether images of a format keep a photo's transparency. Raises ApiError where the format
        has none, but is to keep it."""
        if kind == "jpeg" and self.options.alpha == "keep":
            raise ApiError(422, "alpha is keep, but JPEG has no transparency", field="alpha",
                           value="keep", allowed="drop, or Accept: image/png or image/webp"
                           )  # fmt: skip
        return self.options.alpha != "drop" and kind != "jpeg"


async def read_stylize(request: Request, limits: Limits, reserve: Reserve) -> StylizeRequest:
    """Read the body of POST /v1/stylize. Raises ApiError. reserve: of ``read_body``."""
    return (await _read_work(StylizeBody, request, limits, limits.images, reserve))[1]


async def read_job(
    request: Request, limits: Limits, reserve: Reserve
) -> tuple[StylizeRequest, str | None]:
    """Read the body of POST /v1/jobs. Returns also its webhook. Raises ApiError."""
    body, work = await _read_work(JobBody, request, limits, limits.job_images, reserve)
    return work, body.webhook


async def _read_work(
    model: type[S], request: Request, limits: Limits, max_images: int, reserve: Reserve
) -> tuple[S, StylizeRequest]:
    sent = await _read(request, limits, reserve)
    if isinstance(sent.fields.get("mix"), str):
        sent.fields["mix"] = parse_json(sent.fields["mix"], "mix")
    style_images = sent.files.pop("style_image", [])
    if style_images or sent.fields.get("style_image") is not None:
        sent.fields.setdefault("mix", {"styles": [{"style": OWN_STYLE}]})
    body = validated(model, sent.fields)
    if body.style_image is not None:
        data = from_base64(body.style_image, "style_image")
        style_images.append(SentFile("style_image", data))
    _check_style_image(style_images, body.mix)
    photos = sent.files.pop("image", []) + sent_images(body.images)
    work = make_request(body, photos, _masks(body, sent), limits, max_images)
    return body, replace(work, style_image=style_images[0] if style_images else None)


def _check_style_image(sent: list[SentFile], mix: Mix) -> None:
    """Raise ApiError 422 unless at most one style image was sent, which the mix names."""
    if len(sent) > 1:
        raise ApiError(422, f"{len(sent)} style images were sent", field="style_image",
                       value=len(sent), allowed="one")  # fmt: skip
    if sent and OWN_STYLE not in [share.style for share in mix.styles]:
        raise ApiError(422, "a style image was sent, but the mix does not name its style",
                       field="mix.styles", allowed=f"a style named {OWN_STYLE!r}")  # fmt: skip


def make_request(
    body: StylizeBody,
    photos: list[SentFile],
    masks: dict[str, bytes],
    limits: Limits,
    max_images: int,
) -> StylizeRequest:
    """A request of a validated body and its files. Raises ApiError 422."""
    count = len(photos) + len(body.encodings)
    _check_count(count, max_images)
    _check_limits(body.mix, limits)
    _check_masks(body.mix, masks)
    if body.crop is not None and count > 1:
        raise ApiError(422, f"crop is a square of one photo, but {count} are sent", field="crop",
                       value=str(body.crop), allowed="one photo with crop")  # fmt: skip
    options = PhotoOptions.parse({n: getattr(body, n) for n in PhotoOptions.model_fields})
    return StylizeRequest(body.mix, photos, body.encodings, masks, options, body.provenance)


async def read_encodings(
    request: Request, limits: Limits, reserve: Reserve
) -> tuple[list[SentFile], EncodingsBody]:
    """Photos and body of POST /v1/encodings. Raises ApiError."""
    sent = await _read(request, limits, reserve)
    photos = sent.files.pop("image", [])
    reject_other_files(sent.files, "image")
    body = validated(EncodingsBody, sent.fields)
    photos += sent_images(body.images)
    _check_count(len(photos), limits.images)
    return photos, body


async def read_new_style(
    request: Request, limits: Limits, reserve: Reserve
) -> tuple[SentFile, NewStyleBody]:
    """The style image and the body of POST /v1/styles. Raises ApiError."""
    sent = await _read(request, limits, reserve)
    images = sent.files.pop("image", [])
    reject_other_files(sent.files, "image")
    body = validated(NewStyleBody, sent.fields)
    if body.image is not None:
        images.append(SentFile("image", from_base64(body.image, "image")))
    if len(images) != 1:
        raise ApiError(422, f"{len(images)} images", field="image", value=len(images),
                       allowed="one style image")  # fmt: skip
    return images[0], body


async def read_mask_request(
    request: Request, limits: Limits, reserve: Reserve
) -> tuple[list[SentFile], MasksBody]:
    """The photo that is sent, if one is, and the body of POST /v1/masks. Raises ApiError."""
    sent = await _read(request, limits, reserve)
    photos = sent.files.pop("image", [])
    reject_other_files(sent.files, "image")
    for name in ("points", "box"):
        if isinstance(text := sent.fields.get(name), str):
            sent.fields[name] = parse_json(text, name)
    body = validated(MasksBody, sent.fields)
    photos += sent_images(body.images)
    _check_count(len(photos) + len(body.encodings), 1)
    return photos, body


async def read_faces(
    request: Request, limits: Limits, reserve: Reserve
) -> tuple[list[SentFile], list[str]]:
    """Photos, and ids of stored photos, of POST /v1/faces. Raises ApiError."""
    sent = await _read(request, limits, reserve)
    photos = sent.files.pop("image", [])
    reject_other_files(sent.files, "image")
    body = validated(FacesBody, sent.fields)
    photos += sent_images(body.images)
    _check_count(len(photos) + len(body.encodings), limits.images)
    return photos, body.encodings


async def _read(request: Request, limits: Limits, reserve: Reserve) -> SentBody:
    # The whole body is read before it is parsed, so that the size limit comes first.
    return await parse_body(request, await read_body(request, limits, reserve), limits)


def _masks(body: StylizeBody, sent: SentBody) -> dict[str, bytes]:
    """The masks of a body by name. Raises ApiError 422."""
    masks = {name: from_base64(text, f"masks.{name}") for name, text in body.masks.items()}
    for part in [part for part in sent.files if part.startswith("mask.")]:
        name, files = part.removeprefix("mask."), sent.files.pop(part)
        if len(files) > 1 or name in masks:
            raise ApiError(422, f"mask {name[:60]!r} is given twice", field=part[:60],
                           allowed="one file for each mask")  # fmt: skip
        masks[name] = files[0].data
    reject_other_files(sent.files, "image and mask.NAME")
    return masks


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ApiError(422, f"{count} images", field="images", value=count,
                       allowed=f"1 to {most}, photos and encodings together")  # fmt: skip


def _check_masks(mix: Mix, masks: dict[str, bytes]) -> None:
    """Raise ApiError 422 unless the masks sent are those that the mix names, or are proposed."""
    named = {s.mask for s in mix.styles if s.mask}
    if missing := sorted(named - set(masks) - set(REGIONS)):
        raise ApiError(422, f"the mix names mask {missing[0]!r}, but no such mask was sent",
                       field="masks", value=missing[0],
                       allowed=sorted({*masks, *REGIONS}))  # fmt: skip
    if unknown := sorted(set(masks) - named):
        raise ApiError(422, f"mask {unknown[0][:60]!r} was sent, but no style of the mix names it",
                       field="masks", value=unknown[0], allowed=sorted(named))  # fmt: skip


async def read_picture(request: Request, limits: Limits, reserve: Reserve) -> SentFile:
    """The picture of a form whose only part is the file `image`. Raises ApiError."""
    sent = await _read(request, limits, reserve)
    pictures = sent.files.pop("image", [])
    reject_other_files(sent.files, "image")
    if sent.fields or len(pictures) != 1:
        raise ApiError(422, f"the form has {len(pictures)} files named image", field="image",
                       allowed="one file named image, no other fields")  # fmt: skip
    return pictures[0]


def _check_limits(mix: Mix, limits: Limits) -> None:
    """Raise ApiError if a mix exceeds the limits or names a style twice."""
    if len(mix.styles) > limits.styles:
        raise ApiError(422, f"{len(mix.styles)} styles in one mix", field="mix.styles",
                       value=len(mix.styles), allowed=f"at most {limits.styles}")  # fmt: skip
    for name in ("encode_steps", "decode_steps"):
        value, limit = getattr(mix, name), getattr(limits, name)
        if value is not None and value > limit:
            raise ApiError(422, f"mix.{name} is {value}", field=f"mix.{name}", value=value,
                           allowed=f"at most {limit}")  # fmt: skip
    names = [s.style for s in mix.styles]
    if len(set(names)) < len(names):
        raise ApiError(422, "the mix names a style twice", field="mix.styles",
                       value=", ".join(names))  # fmt: skip


def validated(model: type[M], data: dict[str, Any]) -> M:
    """Validate a body. Raises ApiError 422."""
    try:
        return model.parse(data)
    except InvalidInputError as e:
        raise invalid(e) from None
