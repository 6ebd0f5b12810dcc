"""Training a base of DiffStyler in this process, and its installation in the home."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.bases import check_name
from factory.core.disk import disk_named
from factory.core.home import Home
from factory.core.stable_diffusion import Source, install_model
from factory.core.uris import copy_images, is_uri
from osasis.errors import UserError
from osasis.images.photo_set import Report
from pipelines.base_training import claimed_base

if TYPE_CHECKING:
    from diffstyler.pretraining.settings import Sizes


@dataclass(frozen=True)
class DiffStylerBaseRun:
    """Result of ``train_diffstyler_base``.

    finished: whether the training is complete. model: the model as it is now, in the diffusers
    layout, of an incomplete run. info: base.json of the finished base, or None.
    """

    finished: bool
    model: Path
    info: dict[str, Any] | None


def train_diffstyler_base(
    name: str,
    images: str | Path,
    *,
    config: Path | None = None,
    home: Home | None = None,
    overrides: dict[str, Any] | None = None,
    minutes: float | None = None,
    licence: str = "",
    replace: bool = False,
    report: Report = lambda line: None,
) -> DiffStylerBaseRun:
    """Train a small Stable Diffusion on photos and install it as a base of the home.

    The state of the run is in ``bases-in-training/NAME`` below the home; a call with the same
    arguments resumes it.

    images: a folder or a URI. config: JSON file with sizes of the networks (default: those for 64
    pixels). overrides: of the settings. minutes: time limit, after which the run saves a checkpoint
    and stops. replace: overwrite a base of this name. Raises UserError, and DiskFullError, after
    which a call with room resumes the run.
    """
    # Importing torch and diffusers takes seconds, and diffusers may be missing.
    import torch

    from diffstyler.pretraining.dataset import make_pictures
    from diffstyler.pretraining.settings import PretrainSettings
    from diffstyler.pretraining.train_base import BASE, BaseTraining

    home = home or Home.find()
    home.refuse_store("base train-diffstyler")
    check_name(name, "base")
    sizes = read_sizes(config)
    settings = PretrainSettings.parse(overrides or {})
    folder = home.path / "bases-in-training" / name
    with disk_named(home.path), claimed_base(home, name, report):
        if is_uri(str(images)):
            images = copy_images(str(images), folder / "images")
        report("reading and painting photos")
        pictures = make_pictures(Path(images), sizes.image_size, settings)
        training = BaseTraining(
            folder,
            pictures,
            sizes,
            settings,
            device="cuda" if torch.cuda.is_available() else "cpu",
            minutes=minutes,
            report=report,
        )
        report(f"training base {name} on {len(pictures.looks)} photos and paintings")
        finished = training.run()
        info = None
        if finished:
            facts = {
                "pictures": pictures.fingerprint(),
                "sizes": sizes.to_dict(),
                "settings": settings.to_dict(),
            }
            info = install_model(
                home,
                name,
                Source(folder / BASE, facts),
                preset="small",
                photos=Path(images),
                licence=licence,
                replace=replace,
            )
            shutil.rmtree(folder)
        return DiffStylerBaseRun(finished, folder / BASE, info)


def read_sizes(config: Path | None) -> Sizes:
    """Sizes of a JSON file; the defaults without one. Raises UserError."""
    from diffstyler.pretraining.settings import Sizes

    if config is None:
        return Sizes()
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{config}: cannot be read as JSON ({e}); give a file of sizes") from None
    return Sizes.parse(found, str(config))
