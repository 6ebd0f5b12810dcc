"""Catalogs of style images, validated before training starts.

A catalog is a YAML file, a CSV file, a folder of images, or one image. ``check_catalog`` reports
all problems at once, each with file, line, field and remedy.
"""

from factory.catalog.check import Catalog, check_catalog, load_catalog
from factory.catalog.entries import CatalogEntry, CatalogError, CatalogProblem

__all__ = [
    "Catalog",
    "CatalogEntry",
    "CatalogError",
    "CatalogProblem",
    "check_catalog",
    "load_catalog",
]
