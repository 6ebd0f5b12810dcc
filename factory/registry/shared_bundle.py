"""Bundles of registered styles for workers on other machines."""

from __future__ import annotations

from factory.core.home import Home
from factory.core.local_copy import upload
from factory.core.stores import open_store
from factory.registry.versions import StyleVersion
from osasis.bundles.files import STYLE_JSON


def shared_bundle(version: StyleVersion, home: Home) -> str:
    """Path or URI, for other machines, of a version's bundle.

    A home in an object store gets a copy of the bundle, once. Raises StoreError, DiskFullError.
    """
    folder = version.folder()
    if home.uri is None:
        return str(folder)
    place = open_store(home.shared(home.cache / "styles" / version.run_id))
    if place.changed(STYLE_JSON) is None:
        upload(folder, place, STYLE_JSON)
    return place.location
