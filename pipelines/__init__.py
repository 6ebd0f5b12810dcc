"""Batch stylization of corpora on Ray Data, and evaluation of styles on them.

``pipelines.stylize(styles, source, output, ...)`` does what ``style-factory stylize`` does, and
``pipelines.evaluate(styles, photos, output, ...)`` what ``style-factory evaluate`` does.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OutputOptions", "StylizeResult", "evaluate", "stylize"]


def __getattr__(name: str) -> Any:
    # Lazy: these imports take a second.
    if name == "StylizeResult":
        from pipelines.result import StylizeResult

        return StylizeResult
    if name == "OutputOptions":
        from pipelines.options import OutputOptions

        return OutputOptions
    if name == "stylize":
        import importlib

        return importlib.import_module("pipelines.corpus").stylize
    if name == "evaluate":
        import importlib

        return importlib.import_module("pipelines.evaluation").evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
