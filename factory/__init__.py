"""The factory: catalogs, content banks, bulk training, the registry, reports and the CLI.

``factory.train(catalog, ...)`` is `style-factory train` in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factory.training.run import train

__version__ = "0.1.0"
__all__ = ["__version__", "train"]


def __getattr__(name: str) -> Any:
    # Importing Ray and torch takes seconds, so `train` is imported on first use.
    if name == "train":
        from factory.training.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
