"""A tiny base imported as a user would, pictures, a local Ray, and the command line in-process."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from factory.cli import main
from factory.core.home import ENVIRONMENT
from factory.training.style_worker import StyleTask
from osasis.bundles.base import load_base
from osasis.bundles.style import Style, save_style
from osasis.contents import build_bank
from osasis.images.tensors import image_to_tensor
from osasis.networks.checkpoint_keys import to_official
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import load_config
from osasis.networks.spn import StructurePreservingNetwork
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors

# Nothing of the user's own installation may take part.
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", ENVIRONMENT):
    os.environ.pop(_name, None)
torch.set_num_threads(1)

SIZE = 32
PHOTOS = 12

CONFIG = {
    "name": "tiny",
    "image_size": SIZE,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "encoder_channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [16],
    "embed_channels": 32,
    "z_channels": 16,
    "latent_layers": 3,
    "latent_hidden": 32,
}

# Few steps of everything; the preset under them is `default`.
FEW: dict[str, Any] = {
    "iterations": 2,
    "batch_size": 2,
    "lr_unet": 1e-3,
    "encode_steps": 10,
    "decode_steps": 4,
    "latent_steps": 10,
    "counterpart_candidates": 2,
    "counterpart_steps": 10,
    "bank_size": 8,
    "checkpoint_every": 1,
    "stylize_encode_steps": 10,
    "stylize_decode_steps": 4,
}


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


def random_state(module: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights that depend on the layout and the seed only; none are zero."""
    rng = np.random.RandomState(seed)
    state = {}
    for key, value in sorted(module.state_dict().items()):
        noise = torch.from_numpy(rng.standard_normal(tuple(value.shape))).float()
        if value.dim() > 1:
            state[key] = noise / value[0].numel() ** 0.5
        else:
            state[key] = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
    return state


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A smooth random picture of this width and height."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def truncated_jpeg(path: Path, seed: int = 99) -> Path:
    """A JPEG file whose second half is missing."""
    picture(seed, (64, 64)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_sources(folder: Path) -> None:
    """What a user starts from: configuration, checkpoint, LPIPS weights, photos."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    diffae = random_state(DiffAE(load_config(folder / "tiny.json")), seed=7)
    # With one channel a group, normalised features hardly differ in their mean: amplified, so
    # that different pictures have clearly different codes.
    diffae["encoder.out.3.weight"] *= 30
    channels = CONFIG["z_channels"]
    save_tensors(
        folder / "diffae.safetensors",
        {
            **{k: v.clone() for k, v in to_official(diffae).items()},
            "conds_mean": torch.linspace(-0.5, 0.5, channels),
            "conds_std": torch.linspace(0.5, 1.5, channels),
        },
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(11)
        net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    # The trained linear layers are positive.
    state = {k: v.abs() if k.startswith("lin") else v for k, v in net.state_dict().items()}
    save_tensors(folder / "alex.safetensors", {k: v.clone() for k, v in state.items()})
    (folder / "photos").mkdir()
    for i in range(PHOTOS):
        picture(i).save(folder / "photos" / f"{i:02d}.png")


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
            image=str(image),
            counterpart=None,
            fingerprint=f"print-of-{style_id}",
            settings=self.settings.replace(**settings).to_dict(),
            folder=str(folder),
            bank=str(self.bank),
            tags=("x",),
            licence="CC0",
        )


@pytest.fixture(scope="session")
def shop(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The tiny base with its content bank and two preview photos."""
    folder = tmp_path_factory.mktemp("shop")
    settings = make_settings("default", **FEW)
    base = load_base(home / "bases" / "tiny")
    build_bank(base, settings).save(folder / "bank.safetensors")
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
    from factory.core.ray_cluster import KEEP_IDLE, LOCAL_RAY, TRAIN_ENV, connect

    # In the environment, not as Ray's runtime_env: every process of Ray inherits it, and those
    # that wait already need not be started anew.
    os.environ.update(TRAIN_ENV | LOCAL_RAY | KEEP_IDLE | {"OMP_NUM_THREADS": "1"})
    connect(2)
    yield
    ray.shutdown()


def write_style(folder: Path, base_folder: Path, style_id: str, seed: int = 21) -> Style:
    """A style's bundle with random differences, as training would leave it."""
    base = load_base(base_folder)
    other = random_state(base.diffae.unet, seed)
    own = dict(base.diffae.unet.named_parameters())
    image = image_to_tensor(picture(seed, (SIZE, SIZE)))
    z = base.encode_z(torch.stack([image, -image]))
    style = Style(
        style_id,
        {k: 0.2 * (v - own[k]) for k, v in other.items()},
        random_state(StructurePreservingNetwork(), seed + 1),
        z[:1],
        z[1:],
        make_settings("default", **FEW),
        {"base": base.fingerprint},
    )
    save_style(folder, style, image, -image)
    return style


def ray_processes(title: str, driver: int | None = None) -> list[int]:
    """Ids of the Ray processes below a driver (this process) whose title holds this text."""
    import ray

    assert ray.__version__  # its import puts psutil in reach
    import psutil

    below = psutil.Process(driver).children(recursive=True)
    return [p.pid for p in below if title in "".join(p.cmdline()[:1])]
