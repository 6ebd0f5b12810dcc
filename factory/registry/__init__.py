"""The registry: one registered model a style, a version a fingerprint (MLflow)."""

from factory.registry.local import Listing, list_versions
from factory.registry.lookup import EXPERIMENT, KIND_TAG, load_mlflow
from factory.registry.versions import (
    CANDIDATE,
    CHAMPION,
    GATE_TAG,
    PREVIEWS_TAG,
    StyleVersion,
    current_of,
)
from factory.registry.writing import Registry

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "EXPERIMENT",
    "GATE_TAG",
    "KIND_TAG",
    "PREVIEWS_TAG",
    "Listing",
    "Registry",
    "StyleVersion",
    "current_of",
    "list_versions",
    "load_mlflow",
]
