"""Bases of an installation: example photos, names and the default base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from factory.core.bases import check_name, example_photos
from factory.core.home import HOME_VARIABLE, Home
from osasis.bundles.base import read_base_info
from osasis.bundles.files import shipped_bases
from osasis.errors import UserError
from osasis.images.tensors import image_to_tensor
from tests.tiny import picture, truncated_jpeg


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of 8 x 8 pixels."""
    for i in range(10):
        picture(i, (8, 8)).save(tmp_path / f"{i}.png")
    return tmp_path


def numbers(kept: torch.Tensor) -> list[int]:
    """Indices of the ten photos."""
    pictures = [((image_to_tensor(picture(i, (8, 8))) + 1) * 127.5).round() for i in range(10)]
    return [next(i for i, p in enumerate(pictures) if torch.equal(p, k.float())) for k in kept]


@pytest.mark.parametrize(
    ("limit", "expected"), [(4, [0, 2, 5, 7]), (7, [0, 1, 2, 4, 5, 7, 8]), (99, list(range(10)))]
)
def test_photos_are_spread_over_the_whole_folder(
    photos: Path, limit: int, expected: list[int]
) -> None:
    kept = example_photos(photos, 8, limit)
    assert (kept.shape[1:], kept.dtype) == ((3, 8, 8), torch.uint8)
    assert numbers(kept) == expected


def test_broken_photos_are_skipped(photos: Path) -> None:
    truncated_jpeg(photos / "00.jpg")
    assert numbers(example_photos(photos, 8, 99)) == list(range(10))


def test_a_folder_of_broken_photos_is_refused(tmp_path: Path) -> None:
    truncated_jpeg(tmp_path / "cut.jpg")
    with pytest.raises(UserError) as refused:
        example_photos(tmp_path, 8, 4)
    assert str(refused.value).startswith(f"{tmp_path}: no photo can be read (first: ")
    assert "cut.jpg: the JPEG data is truncated" in str(refused.value)


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "A", "ü", "a b", "x" * 64])
def test_invalid_names(name: str) -> None:
    with pytest.raises(UserError, match=r"^base name .*: use 1 to 63 of"):
        check_name(name, "base")


def test_valid_names() -> None:
    for name in ("a", "0", "ffhq-256_v1.2", "x" * 63):
        check_name(name, "base")


def test_the_only_base_is_the_default(tmp_path: Path) -> None:
    home = Home(tmp_path)
    # A home without a base of its own uses the package's.
    assert home.base_folder(None) == shipped_bases()["portraits64"]
    for name in ("b", "a"):
        (home.bases / name).mkdir(parents=True)
        (home.bases / name / "base.json").write_text("{}")
        if name == "b":
            assert home.base_folder(None) == home.bases / "b"
    with pytest.raises(UserError, match=r"^several bases: choose one with --base \(a, b\)$"):
        home.base_folder(None)
    assert home.base_folder("a") == home.bases / "a"
    assert home.base_folder("portraits64") == shipped_bases()["portraits64"]
    assert home.base_names() == ["a", "b", "portraits64", "portraits64-sd"]


def test_a_base_of_the_home_hides_the_packages_base_of_that_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shutil.copytree(shipped_bases()["portraits64"], home.bases / "portraits64")
    assert home.base_folder("portraits64").parent == home.bases
    fingerprint = read_base_info(home.bases / "portraits64")["fingerprint"]
    assert home.base_with(fingerprint) == home.bases / "portraits64"
    assert home.base_with("0" * 16) is None


def test_location_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.find().path == tmp_path / ".style-factory"
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "b"))
    assert Home.find().path == tmp_path / "b"
    assert Home.find("c").path == tmp_path / "c"
    assert Home.find("c").tracking_uri == f"sqlite:///{tmp_path / 'c' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert Home.find("c").tracking_uri == "http://server:5000"
