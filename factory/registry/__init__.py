"""The MLflow registry: one registered model per style, one version per training fingerprint."""

from factory.registry.lookup import (
    EXPERIMENT,
    KIND_TAG,
    RegistrySnapshot,
    list_versions,
    load_mlflow,
)
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
    "Registry",
    "RegistrySnapshot",
    "StyleVersion",
    "current_of",
    "list_versions",
    "load_mlflow",
]
