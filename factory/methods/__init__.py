"""Methods of stylization. The factory, corpora and serving know them by ``interface`` only."""

from factory.methods.interface import LoadedBase, Method, Style
from factory.methods.lookup import (
    METHODS,
    all_methods,
    all_metrics,
    all_settings,
    base_facts,
    check_fit,
    check_mix,
    find_method,
    image_size,
    keeps_photo,
    load_base,
    load_style,
    method_of,
    mix_defaults,
    read_base_info,
)

__all__ = [
    "METHODS",
    "LoadedBase",
    "Method",
    "Style",
    "all_methods",
    "all_metrics",
    "all_settings",
    "base_facts",
    "check_fit",
    "check_mix",
    "find_method",
    "image_size",
    "keeps_photo",
    "load_base",
    "load_style",
    "method_of",
    "mix_defaults",
    "read_base_info",
]
