"""A tiny base imported as a user would, pictures, a local Ray, and the command line in-process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.cli import main
from factory.core.home import HOME_VARIABLE, Home
from factory.registry import Registry, StyleVersion
from factory.training.style_worker import StyleTask
from osasis.bundles.base import load_base
from osasis.images.tensors import image_to_tensor
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors
from tests.tiny import FEW, SIZE, build_bank, picture, truncated_jpeg, write_sources, write_style

# Nothing of the user's own installation may take part.
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", HOME_VARIABLE):
    os.environ.pop(_name, None)
torch.set_num_threads(1)


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as one JSON document and nothing else."""
        data: dict[str, Any] = json.loads(self.out)
        return data

    @property
    def error(self) -> str:
        """The error where it is the only line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def cli(*argv: str | Path) -> Ran:
    """Run a command in this process, its file descriptors 1 and 2 going to files.

    Unlike capfd it serves fixtures of any scope, and ``sys.stdout`` is buffered, as it is where
    a user pipes the output.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        streams = sys.stdout, sys.stderr
        for stream in streams:
            stream.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding="utf-8", line_buffering=True
        )
        try:
            code = main([str(a) for a in argv])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = streams
            for saved, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Ran(code, *texts)


def sets(**settings: Any) -> list[str]:
    """``--set`` options: the few steps of ``FEW`` with these settings on top."""
    merged = {**FEW, **settings}
    return [part for k, v in merged.items() for part in ("--set", f"{k}={json.dumps(v)}")]


def import_tiny(home: Path, sources: Path, name: str = "tiny", *options: str) -> Ran:
    """``base import`` of the sources."""
    return cli(
        *("base", "import", name, "--home", home, "--json"),
        *("--config", sources / "tiny.json", "--diffae", sources / "diffae.safetensors"),
        *("--guide-stages", "0,1,2", "--perceptual", "alex"),
        *("--perceptual-weights", sources / "alex.safetensors"),
        *("--photos", sources / "photos", *options),
    )


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> tuple[Path, Ran]:
    """A home with the tiny base, and what its import printed."""
    path = tmp_path_factory.mktemp("home")
    return path, import_tiny(path, sources)


@pytest.fixture(scope="session")
def home(imported: tuple[Path, Ran]) -> Path:
    """A home that holds the tiny base and nothing else; not to be written to."""
    path, ran = imported
    assert ran.code == 0, ran.err
    return path


@pytest.fixture(scope="session")
def fresh_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes homes with the tiny base and an empty registry."""

    def make() -> Path:
        path = tmp_path_factory.mktemp("fresh")
        shutil.copytree(home / "bases" / "tiny", path / "bases" / "tiny")
        return path

    return make


@pytest.fixture(scope="session")
def style_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of three style images, one of them truncated."""
    folder = tmp_path_factory.mktemp("styles")
    picture(100).save(folder / "oil.png")
    picture(101, (64, 48)).save(folder / "ink.png")
    truncated_jpeg(folder / "broken.jpg")
    return folder


def register_random_style(
    home: Home, style: str, seed: int, folder: Path, base: str = "tiny", *, tags: dict[str, str]
) -> StyleVersion:
    """Write a style with random weights to a folder, and register it as champion."""
    write_style(folder, home.bases / base, style, seed)
    return Registry(home).register(
        style,
        folder,
        fingerprint=f"{style}-{seed}",
        base=load_base(home.bases / base).fingerprint,
        params={"seed": seed},
        history=[],
        metrics={"loss": 1.0},
        tags=tags,
    )


@dataclass(frozen=True)
class Shop:
    """What training needs beside a catalog: base, content bank, previews; paths of one home."""

    base: Path
    bank: Path
    previews: Path
    settings: TrainSettings

    def task(self, style_id: str, image: Path, folder: Path, **settings: Any) -> StyleTask:
        return StyleTask(
            id=style_id,
            image=image,
            counterpart=None,
            fingerprint=f"print-of-{style_id}",
            settings=self.settings.replace(**settings),
            folder=folder,
            bank=self.bank,
            tags=("x",),
            licence="CC0",
        )


@pytest.fixture(scope="session")
def shop(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The tiny base with its content bank and two preview photos."""
    folder = tmp_path_factory.mktemp("shop")
    settings = make_settings("default", **FEW)
    base = load_base(home / "bases" / "tiny")
    save_tensors(folder / "bank.safetensors", build_bank(base, settings).contents.tensors())
    photos = torch.stack([image_to_tensor(picture(i, (SIZE, SIZE))) for i in (300, 301)])
    save_tensors(folder / "previews.safetensors", {"photos": photos})
    return Shop(
        home / "bases" / "tiny",
        folder / "bank.safetensors",
        folder / "previews.safetensors",
        settings,
    )


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A small Ray on this machine, shared by all tests that need one."""
    import ray

    if ray.is_initialized():  # another folder's tests started it, and will end it
        yield
        return
    from factory.core.ray_cluster import CORPUS_ENV, LOCAL_RAY, TRAIN_ENV, connect, stop_ray

    # In the environment, not as Ray's runtime_env: every process of Ray inherits it, and those
    # that wait already need not be started anew.
    os.environ.update(TRAIN_ENV | LOCAL_RAY | CORPUS_ENV | {"OMP_NUM_THREADS": "1"})
    connect(2)
    yield
    stop_ray()


def ray_processes(title: str, driver: int | None = None) -> list[int]:
    """Ids of the Ray processes below a driver (this process) whose title holds this text."""
    import psutil

    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # the process has ended
            if title in "".join(process.cmdline()[:1]):
                found.append(process.pid)
    return sorted(found)
