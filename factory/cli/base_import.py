"""`style-factory base import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.cli.options import (
    INPUTS,
    HomeOption,
    JsonOption,
    LicenceOption,
    ReplaceOption,
    find_home,
    option,
)
from factory.cli.output import print_document, print_progress
from osasis.errors import UserError

OSASIS, DIFFSTYLER = "OSASIS", "DiffStyler"
GUIDE, PERCEPTUAL = "Guide of OSASIS", "Perceptual net of OSASIS"


def import_base(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the base.")],
    diffae: Annotated[
        Path | None,
        option(OSASIS, "DiffAE checkpoint with the latent net, for OSASIS.", metavar="FILE"),
    ] = None,
    stable_diffusion: Annotated[
        str | None,
        option(
            DIFFSTYLER,
            "Stable Diffusion 1.x or 2.x, for DiffStyler: a folder in the diffusers layout, a "
            "safetensors file, or OWNER/NAME on the Hugging Face hub.",
            metavar="MODEL",
        ),
    ] = None,
    config: Annotated[
        str | None,
        option(
            INPUTS,
            "With --diffae: configuration of the networks (ffhq256, horse128, portraits64 or a "
            "JSON file). With a safetensors file: folder in the diffusers layout with the "
            "configurations, the tokenizer and the scheduler of its architecture.",
            metavar="NAME",
        ),
    ] = None,
    latent_stats: Annotated[
        Path | None, option(OSASIS, "latent.pkl of the checkpoint.", metavar="FILE")
    ] = None,
    prior: Annotated[
        Path | None, option(OSASIS, "P2 checkpoint of the photo prior.", metavar="FILE")
    ] = None,
    photos: Annotated[
        Path | None,
        option(
            INPUTS, "Folder of photos of the base's domain to keep with the base.", metavar="DIR"
        ),
    ] = None,
    revision: Annotated[
        str | None, option(DIFFSTYLER, "Branch, tag or commit on the hub (default: main).")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"], option(DIFFSTYLER, "Numbers that store the weights.")
    ] = "float16",
    guide: Annotated[
        Literal["statistics", "open_clip"], option(GUIDE, "Kind of the guide.")
    ] = "statistics",
    guide_stages: Annotated[
        str,
        option(
            GUIDE,
            "Stages of the perceptual net that a statistics guide reads, of 0 to 5.",
            metavar="STAGES",
        ),
    ] = "0,1,2,3",
    guide_grid: Annotated[int, option(GUIDE, "Grid cells per side of a statistics guide.")] = 1,
    guide_model: Annotated[
        str, option(GUIDE, "open_clip model name.", metavar="NAME")
    ] = "ViT-B-32",
    guide_weights: Annotated[
        str, option(GUIDE, "open_clip tag or local checkpoint.", metavar="NAME")
    ] = "openai",
    guide_config: Annotated[
        Path | None, option(GUIDE, "open_clip model configuration.", metavar="MODEL.json")
    ] = None,
    perceptual: Annotated[
        Literal["vgg", "alex", "small"],
        option(PERCEPTUAL, "Net of the perceptual distance (LPIPS)."),
    ] = "vgg",
    perceptual_weights: Annotated[
        Path | None,
        option(PERCEPTUAL, "Weights of the perceptual net (default: download).", metavar="FILE"),
    ] = None,
    licence: LicenceOption = "",
    replace: ReplaceOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install official checkpoints, or a Stable Diffusion, as a base."""
    place = find_home(home)
    if (diffae is None) == (stable_diffusion is None):
        raise UserError(
            "give either --diffae, for a base of OSASIS, or --stable-diffusion, for one of "
            "DiffStyler"
        )
    if stable_diffusion is not None:
        from factory.core.stable_diffusion import import_stable_diffusion

        info = import_stable_diffusion(
            place,
            name,
            stable_diffusion,
            config=None if config is None else Path(config),
            revision=revision,
            dtype=dtype,
            photos=photos,
            licence=licence,
            replace=replace,
            report=print_progress,
        )
    else:
        from factory.core import bases

        if config is None:
            raise UserError("--diffae needs --config: ffhq256, horse128, portraits64 or a file")
        assert diffae is not None
        choice = bases.GuideChoice(
            kind=guide,
            stages=_stages(guide_stages),
            grid=guide_grid,
            model=guide_config.stem if guide_config else guide_model,
            pretrained=guide_weights,
            config=guide_config,
        )
        info = bases.import_base(
            place,
            name,
            config=config,
            diffae=diffae,
            latent_stats=latent_stats,
            prior=prior,
            guide=choice,
            perceptual_net=perceptual,
            perceptual_weights=perceptual_weights,
            photos=photos,
            licence=licence,
            replace=replace,
            report=print_progress,
        )
    text = f"base {info['name']} imported (fingerprint {info['fingerprint']})"
    print_document(info, text, as_json)


def _stages(given: str) -> tuple[int, ...]:
    """The numbers of --guide-stages."""
    stages = [s.strip() for s in given.split(",")]
    if not all(s.isdigit() for s in stages):
        raise UserError(f"--guide-stages is {given!r}; give numbers such as 0,1,2,3")
    return tuple(int(s) for s in stages)
