"""Stylization: sampled latents as pictures, with the photo itself outside of all masks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffstyler.base import Base
from diffstyler.masks import over, union
from diffstyler.passes import Request
from diffstyler.sampling import sample


def decode(base: Base, requests: Sequence[Request], photos: Sequence[Tensor]) -> list[Tensor]:
    """Pictures (3, H, W) in [-1, 1] of requests, on the base's device.

    photos: (3, H, W) in [-1, 1], the encoded photos. Raises UserError as ``sample`` does.
    """
    pictures = []
    for request, photo, latent in zip(requests, photos, sample(base, requests), strict=True):
        picture = base.decode_latents(latent[None])[0]
        pictures.append(compose_pixels(request, photo.to(picture), picture))
    return pictures


def compose_pixels(request: Request, photo: Tensor, picture: Tensor) -> Tensor:
    """The picture inside of the masks, the photo's own pixels outside, if so set.

    The VAE changes fine detail also where the latent is the photo's. (3, H, W) in [-1, 1] each.
    """
    if request.settings.outside != "photo" or not request.layers:
        return picture
    h, w = picture.shape[-2:]
    inside = union([m if m is None else m.to(picture) for m in request.masks((h, w))])
    return over(photo, picture, inside)
