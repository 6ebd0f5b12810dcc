"""Corpora: batch stylization on Ray Data.

``pipelines.stylize(styles, source, output, ...)`` is the command ``style-factory stylize``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Options", "StylizeResult", "stylize"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: importing them takes a second.
    if name == "StylizeResult":
        from pipelines.result import StylizeResult

        return StylizeResult
    if name in ("Options", "stylize"):
        import importlib

        return getattr(importlib.import_module("pipelines.corpus"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
