"""The tiny base, homes and the local Ray of the factory's tests."""

from __future__ import annotations

from tests.factory.conftest import fresh_home, home, imported, local_ray, sources

__all__ = ["fresh_home", "home", "imported", "local_ray", "sources"]
