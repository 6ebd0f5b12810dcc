"""Corpora: batch stylization on Ray Data.

``pipelines.stylize(styles, source, output, ...)`` is the command ``style-factory stylize``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OutputOptions", "StylizeResult", "stylize"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: importing them takes a second.
    if name == "StylizeResult":
        from pipelines.result import StylizeResult

        return StylizeResult
    if name == "OutputOptions":
        from pipelines.options import OutputOptions

        return OutputOptions
    if name == "stylize":
        import importlib

        return importlib.import_module("pipelines.corpus").stylize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
