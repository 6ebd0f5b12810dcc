"""Content banks on Ray: fingerprint, contents, resumed builds, and waiting for other jobs."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factory.core.claims import Claims
from factory.methods.osasis.content_banks import (
    ContentPhotos,
    bank_name,
    ensure_banks,
    read_bank,
    shard_name,
)
from osasis.bundles.base import Base, load_base
from osasis.bundles.files import shipped_bases
from osasis.contents import (
    BANK_JSON,
    CHUNK,
    PARTS,
    SHIPPED_BANKS,
    ContentBank,
    bank_photos,
    encode_contents,
    ship_bank,
)
from osasis.images.tensors import from_uint8
from osasis.settings import TrainSettings, make_settings
from osasis.storage import save_tensors
from tests.factory.conftest import Shop
from tests.tiny import SIZE, build_bank

# Three shards, the last one not full.
COUNT = 2 * CHUNK + 3


@pytest.fixture(scope="module")
def base(shop: Shop) -> Base:
    torch.set_num_threads(1)
    return load_base(shop.base)


@pytest.fixture(scope="module")
def photos() -> ContentPhotos:
    generator = torch.Generator().manual_seed(3)
    shape = (COUNT, 3, SIZE, SIZE)
    return ContentPhotos(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


@pytest.fixture(scope="module")
def settings(shop: Shop) -> TrainSettings:
    return shop.settings.replace(bank_size=100)


@pytest.fixture
def ensure(
    shop: Shop, base: Base, settings: TrainSettings, photos: ContentPhotos, local_ray: None
) -> Callable[..., list[str]]:
    """Runs ``ensure_banks`` for the photos in a folder; returns the reported lines."""

    def build(folder: Path, job: str = "job") -> list[str]:
        reported: list[str] = []
        claims = Claims(folder / "claims", job)
        try:
            ensure_banks(
                str(folder / "banks"),
                str(shop.base),
                base,
                [settings] * 2,
                reported.append,
                claims,
                photos,
            )
        finally:
            claims.close()
        return reported

    return build


def test_bank_name_depends_on_base_settings_and_photos(
    base: Base, settings: TrainSettings, photos: ContentPhotos
) -> None:
    def name(photos: ContentPhotos | None = None, **changes: object) -> str | None:
        return bank_name(base, settings.replace(**changes), photos)  # type: ignore[arg-type]

    same = name()
    # Settings of style training do not matter, nor do sampling settings for given photos.
    assert name(iterations=99, batch_size=1, lr_unet=0.5, seed=7, decode_steps=8) == same
    others = [name(**{k: getattr(settings, k) * 2}) for k in ("encode_steps", "bank_size")]
    others += [name(t0=1.0), name(guide_input="nearest224"), name(photos)]
    others.append(name(ContentPhotos(255 - photos.tensor)))
    assert len({same, *others}) == 7 and None not in others
    # Sampled contents depend on the sampling settings and the seed.
    blind = base.replace(photos=None)
    ways: list[dict[str, int]] = [{}, {"seed": 1}, {"decode_steps": 8}, {"latent_steps": 7}]
    sampled = {bank_name(blind, settings.replace(**w)) for w in ways}
    assert len(sampled) == 4
    assert bank_name(blind, settings.replace(contents="sampled")) is None


def test_a_bank_built_on_ray_equals_build_bank(
    ensure: Callable[..., list[str]], base: Base, settings: TrainSettings, photos: ContentPhotos,
    tmp_path: Path,
) -> None:  # fmt: skip
    (line,) = ensure(tmp_path)
    assert line.startswith(f"content bank: {COUNT} contents encoded in ")
    (folder,) = (tmp_path / "banks").iterdir()
    bank = read_bank(str(folder))
    assert bank is not None and bank.contents == COUNT
    assert bank.seconds is not None and bank.seconds > 0
    # A base with these photos: its bank has all photos but the held-out ones.
    held_out = photos.tensor[:1].expand(6, -1, -1, -1)
    plain = build_bank(base.replace(photos=torch.cat([photos.tensor, held_out])), settings)
    stored = ContentBank.load(folder).contents
    for name in PARTS:
        assert torch.equal(getattr(stored, name), getattr(plain.contents, name)), name
    # The second call finds the bank.
    assert ensure(tmp_path) == []


def test_a_resumed_build_computes_only_missing_shards(
    ensure: Callable[..., list[str]], tmp_path: Path
) -> None:
    ensure(tmp_path)
    (folder,) = (tmp_path / "banks").iterdir()
    shards = [folder / shard_name(start) for start in range(0, COUNT, CHUNK)]
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in shards]
    (folder / BANK_JSON).unlink()
    shards[1].unlink()
    assert read_bank(str(folder)) is None
    assert len(ensure(tmp_path, "successor")) == 1
    after = [(p.read_bytes(), p.stat().st_mtime_ns) for p in shards]
    assert [b for b, _ in after] == [b for b, _ in before]
    assert [a[1] == b[1] for a, b in zip(after, before, strict=True)] == [True, False, True]
    assert not list(folder.glob("*.part")) and not (folder / "photos.safetensors").exists()


def test_a_bank_shipped_with_the_base_is_used(
    shop: Shop, base: Base, settings: TrainSettings, tmp_path: Path
) -> None:
    """Runs without Ray, so that no bank can be built."""
    name = bank_name(base, settings)
    assert name is not None
    built = tmp_path / "built" / name
    save_tensors(built / "shard-00000.safetensors", build_bank(base, settings).contents.tensors())
    (built / BANK_JSON).write_text('{"contents": 4, "seconds": 1.0}')
    own = tmp_path / "base"
    shutil.copytree(shop.base, own)
    shipped = ship_bank(built, own)
    claims, reported = Claims(tmp_path / "claims", "job"), []
    places = str(tmp_path / "banks"), str(own)
    (bank,) = ensure_banks(*places, base, [settings], reported.append, claims)
    assert bank is not None and bank.location == str(shipped) and reported == []
    assert (bank.contents, bank.seconds) == (4, None)
    # Other settings need another bank.
    other = bank_name(base, settings.replace(t0=1.0))
    assert other is not None and read_bank(f"{own}/{SHIPPED_BANKS}/{other}") is None


def test_the_embedded_base_ships_the_bank_of_preset_fast(tmp_path: Path) -> None:
    """Fails if the base or the preset changed without a new shipped bank.

    The bank is stored in float16, whose rounding exceeds float32 differences between CPUs.
    """
    torch.set_num_threads(1)
    folder = shipped_bases()["portraits64"]
    shipped, fast = load_base(folder), make_settings("fast")
    name, own = bank_name(shipped, fast), bank_photos(shipped)
    assert name is not None and own is not None
    bank = read_bank(f"{folder}/{SHIPPED_BANKS}/{name}")
    assert bank is not None and bank.contents == len(own)
    stored = ContentBank.load(Path(bank.location)).take(torch.tensor([0, 41]))
    made = encode_contents(shipped, from_uint8(own[[0, 41]]), fast)
    for name in PARTS:
        was, now = getattr(stored, name), getattr(made, name)
        assert (was - now).abs().mean() < 0.001 * now.abs().mean(), name


def test_a_job_waits_for_a_bank_that_another_job_builds(
    ensure: Callable[..., list[str]], base: Base, settings: TrainSettings, photos: ContentPhotos,
    tmp_path: Path,
) -> None:  # fmt: skip
    ensure(tmp_path / "source")
    (ready,) = (tmp_path / "source" / "banks").iterdir()
    folder = tmp_path / "banks" / str(bank_name(base, settings, photos))
    assert folder.name == ready.name
    builder = Claims(tmp_path / "claims", "builder")
    assert builder.acquire(f"bank-{folder.name}") is None
    reported: list[list[str]] = []
    waiter = threading.Thread(target=lambda: reported.append(ensure(tmp_path, "waiter")))
    waiter.start()
    time.sleep(1.5)
    assert waiter.is_alive() and not folder.exists()
    folder.parent.mkdir()
    ready.rename(folder)
    builder.close()
    waiter.join(60)
    # The only line says whom the job waited for: it built nothing.
    assert reported == [["content bank: waiting for job builder, which builds it"]]
    assert json.loads((folder / BANK_JSON).read_text())["contents"] == COUNT
