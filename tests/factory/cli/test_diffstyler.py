"""The whole way with a base of DiffStyler, by the command line; killed trainings and corpora."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from factory.core.home import Home
from factory.methods import load_base, load_style
from factory.registry import Registry
from factory.training.style_worker import CHECKPOINT
from osasis.images.tensors import load_square, tensor_to_image
from osasis.mix import Mix
from tests.conftest import ROOT
from tests.diffstyler.tiny_base import FEW, write_base
from tests.diffstyler.tiny_sd import SIZE, half_mask
from tests.factory.conftest import cli
from tests.tiny import picture

MASKED = [{"style": "oil", "mask": "left"}, {"style": "ink"}]


def settings(**changes: Any) -> list[str]:
    merged = FEW | changes
    return [part for name, value in merged.items() for part in ("--set", f"{name}={value}")]


def write_inputs(place: Path, photos: int = 2) -> Path:
    """A home with the tiny base, two style images, photos and a mask."""
    for folder in ("styles", "photos"):
        (place / folder).mkdir(parents=True)
    write_base(place / "home" / "bases" / "tiny-sd")
    for seed, name in ((100, "oil"), (101, "ink")):
        picture(seed).save(place / "styles" / f"{name}.png")
    for seed in range(photos):
        picture(200 + seed).save(place / "photos" / f"{seed}.png")
    Image.fromarray(half_mask("left").numpy()).save(place / "left.png")
    return place


@pytest.mark.slow
@pytest.mark.ci
def test_train_stylize_inspect(local_ray: None, tmp_path: Path) -> None:
    place = write_inputs(tmp_path)
    home = place / "home"
    ran = cli("train", place / "styles", "--home", home, "--json", "--slots", "1", *settings())
    assert ran.code == 0, ran.err
    assert [s["state"] for s in ran.document["styles"]] == ["registered"] * 2
    again = cli("train", place / "styles", "--home", home, "--json", "--slots", "1", *settings())
    assert [s["state"] for s in again.document["styles"]] == ["skipped"] * 2
    gallery = Path(ran.document["gallery"]).read_text()
    assert "style_distance" in gallery and "Photo counterpart of" not in gallery

    stylize = ["stylize", "--home", home, "--input", place / "photos", "--output", place / "out"]
    mix = ["--mix", f"styles={json.dumps(MASKED)}", "--mask", f"left={place / 'left.png'}"]
    ran = cli(*stylize, *mix, "--mix", "guidance=1.5", "--workers", "1", "--json")
    assert ran.code == 0, ran.err
    made = place / "out" / "oil+ink" / "0.png"

    # The pixels are those of the method itself.
    base = load_base(home / "bases" / "tiny-sd")
    registry = Registry(Home(home))
    styles = {n: load_style(registry.resolve(n).folder(), base) for n in ("oil", "ink")}
    wanted = Mix.parse({"styles": MASKED, "guidance": 1.5})
    plan = base.plan(wanted, styles["oil"].settings)
    masks = {"left": half_mask("left").float() / 255}
    photo = load_square(place / "photos" / "0.png", SIZE)[None]
    recipe = base.recipe(wanted, styles, plan, masks=masks)
    (image,) = base.decode_rows([(base.encode(photo, plan), recipe)])
    size = Image.open(place / "photos" / "0.png").size
    expected = tensor_to_image(image).resize(size, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(made)), np.asarray(expected))

    # Photos of several shapes in one batch, each as a whole.
    picture(300, (48, 96)).save(place / "photos" / "tall.png")
    whole = ("--styles", "oil", "--fit", "whole", "--size", "base", "--workers", "1")
    ran = cli(*stylize[:-1], place / "whole", *whole)
    assert ran.code == 0, ran.err
    sizes = {p.stem: Image.open(p).size for p in (place / "whole" / "oil").glob("*.png")}
    square = (SIZE, SIZE)
    assert sizes == {"0": square, "1": square, "tall": (SIZE, 2 * SIZE)}

    document = cli("inspect", made, "--home", home, "--json").document
    found = document["provenance"]
    assert found["mix"]["guidance"] == 1.5
    assert [s["reference"] for s in found["styles"]] == ["oil:1", "ink:1"]
    assert "--mix guidance=1.5" in document["command"]

    refused = cli(*stylize, "--styles", "oil", "--mix", "t0=0.5")
    assert (refused.code, refused.error.split(";")[0]) == (
        2,
        "mix: t0 is no field of a mix of method diffstyler, which is the base's",
    )
    refused = cli("train", place / "styles", "--home", home, "--set", "iterations=3")
    assert refused.error.startswith("settings: unknown field 'iterations'")
    photos = ["--contents", place / "photos", "--base", "tiny-sd"]
    refused = cli("train", place / "styles", "--home", home, *photos)
    assert refused.error.startswith("--contents: styles of method diffstyler")


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """The command line in a new process, with its own Ray."""
    environment = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "factory.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_once(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Kill a process when a condition holds."""
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)


@pytest.mark.slow
def test_killed_commands_make_the_same_files(tmp_path: Path) -> None:
    whole, killed = (write_inputs(tmp_path / n, photos=30) for n in ("whole", "killed"))

    def train(place: Path) -> subprocess.Popen[bytes]:
        steps = settings(steps=40, checkpoint_every=5)
        return start(*("train", place / "styles", "--home", place / "home", "--slots", "1"), *steps)

    def stylize(place: Path) -> subprocess.Popen[bytes]:
        return start(
            *("stylize", "--home", place / "home", "--styles", "oil,ink", "--workers", "1"),
            *("--input", place / "photos", "--output", place / "out", "--no-contact-sheet"),
        )

    training = killed / "home" / "styles-in-training"
    assert train(whole).wait(300) == 0
    kill_once(train(killed), lambda: any(training.glob(f"*/{CHECKPOINT}")))
    assert train(killed).wait(300) == 0
    weights = [
        Registry(Home(p / "home")).resolve("oil").folder() / "style.safetensors"
        for p in (whole, killed)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    def outputs(place: Path) -> dict[str, bytes]:
        files = (place / "out").rglob("*.png")
        return {str(p.relative_to(place)): np.asarray(Image.open(p)).tobytes() for p in files}

    assert stylize(whole).wait(300) == 0
    kill_once(stylize(killed), lambda: len(list((killed / "out").rglob("*.png"))) >= 10)
    assert stylize(killed).wait(300) == 0
    assert len(outputs(whole)) == 60
    assert outputs(killed) == outputs(whole)
