"""A complete training run on Ray."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from factory.core.claims import Claims
from factory.core.home import Home
from factory.registry import Registry
from factory.training.fingerprint import fingerprint
from factory.training.run import train
from factory.training.staged_images import StagedImages
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.settings import make_settings
from osasis.storage import DiskFullError, write_json
from tests.tiny import FEW, SIZE, picture


def test_training_uses_the_checked_bytes_if_the_file_changes(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home, image = Home(fresh_home()), tmp_path / "oil.png"
    picture(100, (SIZE, SIZE)).save(image)
    checked = image.read_bytes()

    def change_the_file(line: str) -> None:
        """Called with the first line that the run reports, between planning and training."""
        picture(101, (SIZE, SIZE)).save(image)

    result = train(image, home=home, preset="default", overrides=FEW, report=change_the_file)
    assert image.read_bytes() != checked
    assert [s.state for s in result.styles] == ["registered"]
    version = Registry(home).resolve("oil")
    # The stored image and the fingerprint are those of the checked bytes.
    assert (version.folder() / "style.png").read_bytes() == png_bytes(picture(100, (SIZE, SIZE)))
    base = read_base_info(home.bases / "tiny")["fingerprint"]
    settings = make_settings("default", **FEW).to_dict()
    assert version.fingerprint == fingerprint(checked, None, base, settings)
    assert not (result.folder / "images").exists()
    (bank,) = json.loads((result.folder / "result.json").read_text())["content_banks"]
    assert set(bank) == {"contents", "build_seconds"} and bank["contents"] > 0


def test_a_style_that_another_job_takes_over_is_waited_for_and_trained_once(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path
) -> None:
    home, lines = Home(fresh_home()), list[str]()
    picture(100, (SIZE, SIZE)).save(tmp_path / "oil.png")
    other = Claims(home.claims, "other")

    def report(line: str) -> None:
        first = not any("training on" in told for told in lines)
        lines.append(line)
        if "training on" in line and first:
            (claim,) = home.claims.glob("oil-*.claim")
            write_json(claim, asdict(other.holder))
        elif "waiting for other" in line:
            other.close()

    result = train(tmp_path / "oil.png", home=home, preset="default", overrides=FEW, report=report)
    assert any(line.startswith("waiting for other to train oil; ") for line in lines)
    assert [(s.state, s.attempts) for s in result.styles] == [("registered", 1)]
    assert [v.version for v in Registry(home).all_versions()["oil"]] == [1]
    assert not list(home.claims.iterdir())


def test_a_full_disk_ends_a_run_at_once_and_a_finished_run_needs_no_room(
    fresh_home: Callable[[], Path], local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, image, lines = Home(fresh_home()), tmp_path / "oil.png", list[str]()
    picture(100, (SIZE, SIZE)).save(image)

    def run() -> list[str]:
        result = train(image, home=home, preset="default", overrides=FEW, report=lines.append)
        return [s.state for s in result.styles]

    def write_bytes(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(DiskFullError, match=f"^the disk of {home.jobs}/train-.* is full"):
            run()
    assert run() == ["registered"]
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_bytes)
        assert run() == ["skipped"]
    assert lines[-1].startswith("no gallery is written: the disk of ")


def test_staged_images_read_a_location_once(tmp_path: Path) -> None:
    images, file = StagedImages(tmp_path / "images"), tmp_path / "oil.png"
    file.write_bytes(b"first")
    assert images.read(str(file)) == b"first"
    file.write_bytes(b"second")
    assert images.read(str(file)) == images.path(str(file)).read_bytes() == b"first"
    with pytest.raises(UserError, match="no such file"):
        images.read(str(tmp_path / "ink.png"))
    images.delete()
    assert not (tmp_path / "images").exists()
