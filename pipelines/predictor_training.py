"""`style-factory base train-predictor`: adds a style predictor to a base of the home."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory.core.claims import Claims
from factory.core.home import Home
from factory.core.ray_cluster import start_ray
from factory.methods import load_base, method_of, read_base_info
from osasis.errors import UserError
from osasis.pretraining.budgeted_training import TrainingBudget
from osasis.pretraining.train_predictor import predictor_settings, train_predictor
from pipelines.base_training import claimed_base


def add_predictor(
    name: str | None,
    images: Path,
    *,
    home: Home,
    budget: TrainingBudget,
    styles: int,
    seed: int,
    device: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train a style predictor for a base of the home and return the content of predictor.json.

    name: of the base; None: the only one. images: folder of photos to paint. styles: number of
    painted styles. The state is in ``bases-in-training/NAME-predictor`` below the home; a call with
    the same arguments resumes. Raises UserError.
    """
    home.refuse_store("base train-predictor")
    folder = home.base_folder(name)
    info = read_base_info(folder)
    if (method := method_of(info)).name != "osasis":
        raise UserError(
            f"base {folder.name} is of method {method.name}; predictors are for bases of osasis"
        )
    if folder.parent != home.bases:
        raise UserError(
            f"base {folder.name} is part of the package, which this command does not change; copy "
            f"{folder} to {home.bases / 'NAME'} and train the predictor of NAME"
        )
    state = home.path / "bases-in-training" / f"{folder.name}-predictor"
    with claimed_base(home, folder.name, report):
        bank = _bank(folder, home, report)
        return train_predictor(
            folder, images, state, bank, budget, styles=styles, seed=seed, device=device
        )


def _bank(folder: Path, home: Home, report: Callable[[str], None]) -> Path:
    """The folder of the content bank that the predictor trains on."""
    base, settings = load_base(folder, "cpu"), predictor_settings()
    ready, bank = base.ready_bank(settings, home)
    if not ready:
        claims = Claims(home.claims, f"predictor-{uuid.uuid4().hex[:12]}")
        try:
            start_ray()
            built = base.banks([settings], home, report, claims)[0]
        finally:
            claims.close()
        bank = built.location if built is not None else None
    assert bank is not None  # preset instant takes its contents from a bank
    return Path(bank)
