"""Loader module that MLmodel files of registered styles name; see ``factory.registry.pyfunc``."""

from factory.registry.pyfunc import StylePredictor, _load_pyfunc

__all__ = ["StylePredictor", "_load_pyfunc"]
