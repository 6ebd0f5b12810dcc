"""Styles made from an image in a request, without training.

Their bundles lie in the home's cache, where every engine of the home finds them, and are deleted
some time after their last use. Of a home in an object store they are in the store, too, from where
other machines copy them. An operator may register one, or keep its image to be trained.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from factory.core.home import Home
from factory.core.local_copy import download, upload
from factory.core.stores import open_store
from factory.methods import LoadedBase
from factory.methods.interface import TrainingInputs
from factory.registry import StyleVersion
from osasis.bundles.files import STYLE_JSON, read_json
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.kinds import HEAD_BYTES, kind_of
from osasis.storage import sha256_text, write_atomic

PRESET = "instant"
PREFIX = "image-"
# An object that is written when a style is used, at most this often by a machine.
USED = "used"
TELL_SECONDS = 60.0


class MadeStyles:
    """The styles that were made from images. age: seconds for which one is kept without use."""

    def __init__(self, home: Home, base: str, age: float) -> None:
        self.folder, self.base, self.age = home.cache / "styles-from-images", base, age
        self._store = open_store(home.shared(self.folder)) if home.uri is not None else None
        self._told: dict[str, float] = {}

    def find(self, name: str) -> StyleVersion | None:
        """A style by its name, kept for longer; None where there is none, or no more."""
        if not name.startswith(PREFIX) or "/" in name or not self._is_here(name):
            return None
        folder = self.folder / name
        os.utime(folder)
        self._tell_use(name)
        info = read_json(folder / STYLE_JSON, "send the style image again")
        if info["base"] != self.base:
            return None
        created = int((folder / STYLE_JSON).stat().st_mtime * 1000)
        return StyleVersion(
            name, 1, info["fingerprint"], self.base, "", str(folder), (), created, {}, "", folder
        )

    def add(self, bundle: Path, name: str) -> None:
        """Copy a bundle to its place. Raises StoreError."""
        if self._store is not None:
            upload(bundle, self._store.within(name), STYLE_JSON)
        self._place(name, lambda part: shutil.copytree(bundle, part))

    def delete_old(self) -> None:
        """Delete the styles that nobody has used for ``age`` seconds."""
        oldest = time.time() - self.age
        for folder in self.folder.glob(f"*{PREFIX}*"):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        if self._store is None:
            return
        for name in {n.partition("/")[0] for n in self._store.list()}:
            place = self._store.within(name)
            if max(place.changed(USED) or 0, place.changed(STYLE_JSON) or 0) < oldest:
                self._store.delete_folder(name)

    def _is_here(self, name: str) -> bool:
        """Whether a style's bundle is on this machine, once it is copied from the store."""
        if (self.folder / name / STYLE_JSON).is_file():
            return True
        if self._store is None or self._store.within(name).changed(STYLE_JSON) is None:
            return False
        place = self._store.within(name)
        self._place(name, lambda part: download(place, part, skip=[USED]))
        return (self.folder / name / STYLE_JSON).is_file()

    def _place(self, name: str, fill: Callable[[Path], object]) -> None:
        """Fill a folder and move it to a style's place, where another engine may have one now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{name}-{uuid.uuid4().hex}"
        try:
            fill(part)
            part.rename(self.folder / name)
        except OSError:
            if not (self.folder / name / STYLE_JSON).is_file():
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _tell_use(self, name: str) -> None:
        """Tell the machines of a store that a style is used."""
        now = time.monotonic()
        if self._store is not None and now - self._told.get(name, -TELL_SECONDS) >= TELL_SECONDS:
            self._told[name] = now
            self._store.within(name).touch(USED)


class StyleMaker:
    """Makes styles of a base from images. ``make`` computes with the base's networks."""

    def __init__(self, base: LoadedBase, home: Home, made: MadeStyles) -> None:
        self.base, self.home, self.made = base, home, made

    def make(self, image: bytes) -> str:
        """The name of the style of an image file; the same image gives the same name.

        Raises ImageError for a bad image, UserError where the base cannot predict styles.
        """
        if PRESET not in self.base.method.presets:
            raise UserError(f"the method {self.base.method.name} makes no style from an image")
        settings = self.base.method.make_settings(PRESET)
        identity = [image.hex(), self.base.training_identity(settings), settings.to_dict()]
        key = sha256_text(json.dumps(identity, sort_keys=True))[:16]
        name = f"{PREFIX}{key}"
        if self.made.find(name) is None:
            self.made.delete_old()
            with tempfile.TemporaryDirectory() as scratch:
                self.made.add(self._make(image, name, key, Path(scratch)), name)
        return name

    def warm_up(self) -> None:
        """Make a style and drop it, so that the first request finds every network loaded."""
        grey = Image.new("RGB", (self.base.image_size,) * 2, (128, 128, 128))
        with contextlib.suppress(UserError), tempfile.TemporaryDirectory() as scratch:
            self._make(png_bytes(grey), "", "", Path(scratch))

    def _make(self, image: bytes, name: str, key: str, scratch: Path) -> Path:
        """Write the bundle of an image's style below a folder, and return its folder."""
        settings = self.base.method.make_settings(PRESET)
        ready, bank = self.base.ready_bank(settings, self.home)
        if not ready:
            raise UserError(
                f"base {self.base.name} has no content bank for preset {PRESET}; train a style "
                f"with preset {PRESET} once"
            )
        size = self.base.image_size
        path = scratch / f"style.{kind_of(image[:HEAD_BYTES]) or 'png'}".lower()
        write_atomic(path, image)
        inputs = TrainingInputs(
            image=path,
            name="the style image",
            counterpart=None,
            settings=settings,
            folder=scratch,
            bank=bank,
            previews=torch.zeros(0, 3, size, size, device=self.base.device),
        )
        info = {
            "base": self.base.fingerprint,
            "base_name": self.base.name,
            "fingerprint": key,
            "source_image": "",
            "tags": [],
            "licence": "",
        }
        self.base.train(inputs, None).finish(name, info).save(scratch / "bundle")
        return scratch / "bundle"
