"""Stylization: sampled latents as pictures, with the photo itself outside of all masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from torch import Tensor

from diffstyler.base import Base
from diffstyler.masks import over, union
from diffstyler.passes import Request
from diffstyler.sampling import sample
from osasis.errors import UserError


def decode(
    base: Base,
    requests: Sequence[Request],
    photos: Sequence[Tensor],
    pass_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Pictures (3, H, W) in [-1, 1] of requests, on the base's device.

    photos: (3, H, W) in [-1, 1], the encoded photos. pass_size: of ``sample``. progress: steps done
    of all requests, and their number.
    A picture's sides are its latent's times ``base.latent_factor``. From a photo whose sides are no
    multiples of it, as ``multiple`` 1 of preset ``reference`` makes them, a picture lacks the
    remainder at the right and at the bottom, as published; ``outside`` photo refuses such photos.
    Raises UserError for these, and as ``sample`` does.
    """
    for number, (request, photo) in enumerate(zip(requests, photos, strict=True)):
        _check_size(base, request, photo, number)
    pictures = []
    total, done = sum(r.settings.decode_steps for r in requests), count(1)
    latents = sample(
        base,
        requests,
        lambda step: None if progress is None else progress(next(done), total),
        pass_size,
    )
    for request, photo, latent in zip(requests, photos, latents, strict=True):
        picture = base.decode_latents(latent[None])[0]
        pictures.append(compose_pixels(request, photo.to(picture), picture))
    return pictures


def _check_size(base: Base, request: Request, photo: Tensor, number: int) -> None:
    """Whether a photo that is composed with its picture is of its size."""
    (height, width), factor = photo.shape[-2:], base.latent_factor
    h, w = (side * factor for side in request.encoding.photo.shape[-2:])
    if request.keeps_photo and (height, width) != (h, w):
        raise UserError(
            f"photo {number} has {width}x{height} pixels, but the picture of its encoding {w}x{h}; "
            "with outside photo they must be equal: encode this photo with sides that are "
            f"multiples of {factor}, as images.resize makes them, or set outside to base"
        )


def compose_pixels(request: Request, photo: Tensor, picture: Tensor) -> Tensor:
    """The picture inside of the masks, the photo's own pixels outside, if so set.

    The VAE changes fine detail also where the latent is the photo's. (3, H, W) in [-1, 1] each.
    """
    if not request.keeps_photo:
        return picture
    h, w = picture.shape[-2:]
    inside = union([m if m is None else m.to(picture) for m in request.masks((h, w))])
    return over(photo, picture, inside)
