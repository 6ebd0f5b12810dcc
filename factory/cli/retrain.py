"""Trains styles again with other settings, for `style-factory evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from osasis.bundles.files import COUNTERPART_PNG, STYLE_PNG
from osasis.errors import UserError
from osasis.storage import write_json

if TYPE_CHECKING:
    from factory.core.home import Home
    from factory.registry import StyleVersion
    from pipelines.retraining import Retraining


def retrain(home: Home, base: str, planned: Sequence[Retraining]) -> dict[str, StyleVersion]:
    """Train what ``home`` does not hold yet, as a catalog; returns all versions by id.

    A killed training resumes from its checkpoints. Raises UserError naming every style that cannot
    be trained.
    """
    from factory.registry import RegistrySnapshot

    known = RegistrySnapshot(home).styles()
    if missing := {r.id: r for r in planned if r.id not in known}:
        _train(home, base, missing.values())
    registry = RegistrySnapshot(home)
    return {r.id: registry.get(r.id) for r in planned}


def _train(home: Home, base: str, missing: Iterable[Retraining]) -> None:
    from factory.core.ray_cluster import start_ray
    from factory.training.run import train

    catalog = home.path / "catalog.json"
    write_json(catalog, {"styles": [_entry(r) for r in missing]})
    start_ray(corpus=True)  # the evaluation goes on with the same Ray
    # An entry sets every field, so that no preset takes part.
    result = train(catalog, home=home, base=base, preset="default", progress="auto")
    if failed := [f"{s.id}: {s.reason}" for s in result.styles if s.state == "failed"]:
        raise UserError(f"these styles could not be trained: {'; '.join(failed)}")


def _entry(planned: Retraining) -> dict[str, object]:
    folder = planned.version.folder()
    entry: dict[str, object] = {
        "id": planned.id,
        "image": str(folder / STYLE_PNG),
        "overrides": planned.settings.to_dict(),
    }
    if planned.given_counterpart:
        entry["counterpart"] = str(folder / COUNTERPART_PNG)
    return entry
