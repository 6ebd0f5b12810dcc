"""An ingress's photos: read from requests, stored for later requests, fitted to the base."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from factory.core.machine import usable_cpus
from osasis.images.fitting import FittedPhoto
from osasis.images.geometry import Size, SquarePlacement
from osasis.images.photo_options import PhotoOptions
from osasis.segmenting.prompts import NO_PROMPT, Prompt
from serving.caches import ByteLru
from serving.config import ServeConfig
from serving.errors import ApiError
from serving.forms import SentFile
from serving.request_images import fitted_photo, photo_faces, photo_id, photo_size
from serving.request_masks import proposed_mask
from serving.shared_state import StoredPhoto

T = TypeVar("T")
# Threads for work on whole photos: each takes up to 1.2 GB for a photo of 50 megapixels.
MAX_THREADS = 4
# Proposed masks that are kept, so that a moved slider does not propose them again.
MASK_BYTES = 32_000_000


@dataclass(frozen=True)
class RequestPhoto:
    """A photo of a request. key: its id. field: its path in the request."""

    key: str
    field: str
    stored: StoredPhoto


class PhotoStore:
    """Photos of this process's requests. The files are stored in the shared state, by owner and id.

    state: handle of the shared state. square: side of the base's square in pixels.
    """

    def __init__(self, config: ServeConfig, state: Any, square: int) -> None:
        self.limits, self.state, self.square = config.limits, state, square
        self._fitted: ByteLru[FittedPhoto] = ByteLru(config.fitted, lambda photo: photo.nbytes)
        self.segmenter = config.segmenter
        self._masks: ByteLru[bytes] = ByteLru(MASK_BYTES, len)
        threads = min(usable_cpus(), MAX_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Run a function on images in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

    async def of_request(
        self, sent: list[SentFile], keys: list[str], owner: str
    ) -> list[RequestPhoto]:
        """Photos that were sent, then stored ones by id. Raises ApiError 404 for an unknown id.

        owner: name of the API key; its photos are its own.
        """
        photos = [
            RequestPhoto(photo_id(s.data), s.field, StoredPhoto(s.data, s.name)) for s in sent
        ]
        return photos + [await self._get(key, i, owner) for i, key in enumerate(keys)]

    async def _get(self, key: str, index: int, owner: str) -> RequestPhoto:
        field = f"encodings[{index}]"
        stored: StoredPhoto | None = await self.state.get_photo.remote(owner, key)
        if stored is None:
            raise ApiError(404, f"encoding {key[:64]!r} is unknown or has expired; send the photo "
                           "again", field=field, value=key)  # fmt: skip
        return RequestPhoto(key, field, stored)

    async def keep(self, photos: list[RequestPhoto], owner: str) -> None:
        """Store the files of photos, once each."""
        for photo in {photo.key: photo for photo in photos}.values():
            await self.state.put_photo.remote(owner, photo.key, photo.stored)

    async def fit(
        self, photo: RequestPhoto, options: PhotoOptions, keep_alpha: bool, masked: bool = False
    ) -> FittedPhoto:
        """The photo's squares, from the cache or its file. Raises ApiError.

        masked: of ``fit_photo``.
        """
        key = json.dumps([photo.key, options.to_dict(), keep_alpha, masked], sort_keys=True)
        if (found := self._fitted.get(key)) is None:
            found = await self.in_thread(
                fitted_photo, photo.stored.data, photo.field, self.square, options, keep_alpha,
                self.limits, masked,
            )  # fmt: skip
            self._fitted.put(key, found)
        return found

    async def mask(self, photo: RequestPhoto, region: str, prompt: Prompt = NO_PROMPT) -> bytes:
        """The proposed mask of a region of the photo, from the cache or its file: a grey PNG.

        prompt: where the subject is. Raises ApiError.
        """
        key = f"{region} {prompt} {photo.key}"
        if (found := self._masks.get(key)) is None:
            found = await self.in_thread(
                proposed_mask, photo.stored.data, photo.field, region, prompt, self.segmenter,
                self.limits,
            )  # fmt: skip
            self._masks.put(key, found)
        return found

    async def size(self, photo: RequestPhoto) -> Size:
        """Width and height of a photo that can be decoded. Raises ApiError."""
        return await self.in_thread(
            photo_size, photo.stored.data, photo.field, self.square, self.limits
        )

    async def faces(self, photo: RequestPhoto) -> tuple[Size, list[SquarePlacement]]:
        """Width and height of a photo, and the squares of its faces. Raises ApiError."""
        return await self.in_thread(photo_faces, photo.stored.data, photo.field, self.limits)
