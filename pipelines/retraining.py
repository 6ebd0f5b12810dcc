"""Styles that an evaluation trains again with other settings, for its sweeps and ablations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import __version__
from factory.core.home import Home
from factory.methods import load_style
from factory.registry import StyleVersion
from osasis.bundles.files import COUNTERPART_PNG, STYLE_PNG
from osasis.errors import UserError
from osasis.mix import StyleShare
from osasis.storage import sha256_file, sha256_text
from osasis.validation import InvalidInputError, Problem
from pipelines.targets import Targets
from pipelines.variants import Variant

# Folder of an evaluation: the home in which these styles are registered.
FOLDER = "retrained"
LONGEST_ID = 50


@dataclass(frozen=True)
class Retraining:
    """A training of a registered style's image, for a variant.

    id: the same for the same images, settings and code. given_counterpart: whether the version's
    photo counterpart is used; otherwise the base makes one.
    """

    id: str
    version: StyleVersion
    variant: Variant
    settings: Any
    given_counterpart: bool


# Trains what the home does not hold yet, each id once, on the base with this name; returns versions
# by id. pipelines must not import training, so factory.cli gives the function.
Retrain = Callable[[Home, str, Sequence[Retraining]], Mapping[str, StyleVersion]]


def plan_retrainings(
    versions: Mapping[str, StyleVersion], variants: Sequence[Variant], retrain: Retrain | None
) -> list[Retraining]:
    """The trainings of all styles and variants with training settings.

    Raises InvalidInputError with the problems of all settings, and UserError where nothing can
    train.
    """
    wanted = [v for v in variants if v.training]
    if wanted and retrain is None:
        raise UserError(
            f"{wanted[0].name} trains styles again; pass retrain=factory.cli.retrain.retrain"
        )
    found: list[Retraining] = []
    problems: list[Problem] = []
    ids: dict[str, str] = {}
    for version in versions.values() if wanted else ():
        own = load_style(version.folder()).settings
        for v in wanted:
            try:
                settings = own.replace(**v.training)
            except InvalidInputError as e:
                problems += [p for p in e.problems if p not in problems]
                continue
            # The given counterpart would hide what its own settings change.
            given = (version.folder() / COUNTERPART_PNG).is_file() and not any(
                name.startswith("counterpart_") for name in v.training
            )
            digest = _digest(version, settings, given)
            values = "-".join(f"{name}-{getattr(settings, name)}" for name in v.training)
            readable = re.sub(r"[^a-z0-9._-]+", "-", f"{version.style}-{values}".lower())
            id_ = ids.setdefault(digest, f"{readable[:LONGEST_ID]}-{digest}")
            found.append(Retraining(id_, version, v, settings, given))
    if problems:
        raise InvalidInputError("sweep", problems)
    return found


def _digest(version: StyleVersion, settings: Any, given_counterpart: bool) -> str:
    """Hash of what determines a training on a version's image."""
    files = [STYLE_PNG, *([COUNTERPART_PNG] if given_counterpart else [])]
    images = [sha256_file(version.folder() / name) for name in files]
    identity = [images, version.base, settings.to_dict(), __version__]
    return sha256_text(json.dumps(identity, sort_keys=True))[:8]


def add_retrained(
    planned: Sequence[Retraining], retrain: Retrain, place: Path, targets: Targets
) -> dict[tuple[str, str], int]:
    """Train, and add the targets; returns the target of each style and variant.

    The styles are registered below ``place``, an evaluation's folder; the home's registry stays as
    it is. Raises UserError.
    """
    assert targets.base is not None
    trained = retrain(targets.home.experiment(place / FOLDER), targets.base.name, planned)
    found = {}
    for r in planned:
        targets.adopt(trained[r.id])
        style, share = r.version.style, StyleShare(style=r.id)
        label = f"{style}/{r.variant.name}"
        found[style, r.variant.name] = targets.add([share], r.variant.fields or {}, label)
    return found
