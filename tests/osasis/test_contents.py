"""Contents: sampled, or drawn from a bank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.files import shipped_bases
from osasis.contents import (
    HELD_OUT,
    PARTS,
    ContentBank,
    Contents,
    SampledContents,
    encode_contents,
    main,
    ship_bank,
)
from osasis.images.tensors import from_uint8
from osasis.sampling import INVERTERS
from osasis.settings import TrainSettings
from osasis.storage import save_tensors
from tests.tiny import build_bank

Settings = Callable[..., TrainSettings]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equal(a: Contents, b: Contents) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in PARTS)


@pytest.fixture
def numbered() -> ContentBank:
    """Six contents that contain their index."""
    n = torch.arange(6.0)
    picture = n.view(6, 1, 1, 1).expand(6, 3, 4, 4).clone()
    guide = n.view(6, 1, 1) - 50
    return ContentBank(Contents(picture, n.view(6, 1).clone(), picture + 100, guide))


def test_encode_contents(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    photos, settings = images(2, 1), tiny_settings(t0=0.3, decode_steps=10)
    c = encode_contents(tiny_base, photos, settings)
    with torch.no_grad():
        z = tiny_base.encode_z(photos)
        x = INVERTERS["ddim"](tiny_base.eps_a(z), photos, "trailing", 10, 0.3, None)
    assert torch.equal(c.photo, photos)
    torch.testing.assert_close(c.z, z)
    torch.testing.assert_close(c.x_t0, x)
    torch.testing.assert_close(c.guide, tiny_base.guide.embed(photos))
    assert len(c) == 2 and not c.x_t0.requires_grad


def test_a_draw_depends_on_its_generator_only(numbered: ContentBank) -> None:
    first = numbered.draw(4, generator(1))
    assert equal(first, numbered.draw(4, generator(1)))
    others = [numbered.draw(4, generator(s)).z.flatten().tolist() for s in range(2, 7)]
    assert any(o != first.z.flatten().tolist() for o in others)


def test_a_draw_is_without_replacement(numbered: ContentBank) -> None:
    for seed in range(5):
        c = numbered.draw(6, generator(seed))
        assert sorted(c.z.flatten().tolist()) == [0, 1, 2, 3, 4, 5]
        # All parts are of the same content.
        assert torch.equal(c.photo[:, 0, 0, 0], c.z[:, 0])
        assert torch.equal(c.x_t0[:, 0, 0, 0], c.z[:, 0] + 100)
        assert torch.equal(c.guide[:, 0, 0], c.z[:, 0] - 50)


def test_a_small_bank_repeats_its_contents(numbered: ContentBank) -> None:
    drawn = numbered.draw(15, generator(0)).z.flatten().tolist()
    assert len(drawn) == 15
    assert sorted(drawn[:6]) == sorted(drawn[6:12]) == [0, 1, 2, 3, 4, 5]
    assert len(set(drawn[12:])) == 3


def test_every_content_is_drawn_eventually(numbered: ContentBank) -> None:
    seen = {v for s in range(20) for v in numbered.draw(2, generator(s)).z.flatten().tolist()}
    assert seen == {0, 1, 2, 3, 4, 5}


def test_a_bank_round_trips(tiny_contents: Contents, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    save_tensors(path, tiny_contents.tensors())
    again = ContentBank.load(path)
    assert equal(again.contents, tiny_contents)
    drawn = ContentBank(tiny_contents).draw(3, generator(2))
    assert equal(again.draw(3, generator(2)), drawn)


def test_a_bank_ships_with_its_base_in_float16(tiny_contents: Contents, tmp_path: Path) -> None:
    bank = tmp_path / "content-banks" / "0123456789abcdef"
    save_tensors(bank / "shard-00000.safetensors", tiny_contents.take(slice(0, 2)).tensors())
    save_tensors(bank / "shard-00001.safetensors", tiny_contents.take(slice(2, None)).tensors())
    (bank / "bank.json").write_text('{"contents": 4, "seconds": 7.0, "draw_seconds": 1.0}')
    shipped = ship_bank(bank, tmp_path / "base")
    assert shipped == tmp_path / "base" / "banks" / "0123456789abcdef"
    assert json.loads((shipped / "bank.json").read_text()) == {"contents": 4}
    found = ContentBank.load(shipped).contents
    assert len(found) == len(tiny_contents)
    for name in PARTS:
        was, now = getattr(tiny_contents, name), getattr(found, name)
        assert now.dtype == torch.float32
        torch.testing.assert_close(now, was, rtol=1e-3, atol=1e-3)
        assert not torch.equal(now, was)


@pytest.mark.parametrize("kind", ["no base", "no bank", "no shards"])
def test_a_missing_bank_or_base_is_a_one_line_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    if kind == "no shards":
        (bank / "bank.json").write_text("{}")
    base = tmp_path if kind == "no base" else shipped_bases()["portraits64"]
    monkeypatch.setattr("sys.argv", ["contents", str(bank), str(base)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = {
        "no base": f"error: {tmp_path}: not a base",
        "no bank": f"error: {bank}: not a content bank",
        "no shards": f"error: {bank}: not a content bank",
    }
    assert message[kind] in capsys.readouterr().err.splitlines()[-1]


def test_sampled_contents_follow_the_generator(tiny_base: Base, tiny_settings: Settings) -> None:
    source = SampledContents(tiny_base, tiny_settings())
    torch.manual_seed(0)
    first = source.draw(2, generator(5))
    torch.manual_seed(1)
    assert equal(first, source.draw(2, generator(5)))
    other = source.draw(2, generator(6))
    assert (first.photo - other.photo).abs().max() > 0.1
    assert first.photo.shape == (2, 3, 32, 32) and first.photo.abs().max() <= 1
    assert (first.photo[0] - first.photo[1]).abs().max() > 0.1


def test_a_sampled_bank(tiny_base: Base, tiny_settings: Settings) -> None:
    bank = build_bank(tiny_base, tiny_settings(bank_size=10))
    assert len(bank.contents) == 10
    # Each content is the same in a bank of any size.
    small = build_bank(tiny_base, tiny_settings(bank_size=3))
    assert len(small.contents) == 3 and equal(small.contents, bank.contents.take(torch.arange(3)))
    # The last chunk differs from the first.
    assert (bank.contents.photo[8:] - bank.contents.photo[:2]).abs().max() > 0.1
    other = build_bank(tiny_base, tiny_settings(bank_size=3, seed=1))
    assert not equal(small.contents, other.contents)


def test_a_bank_from_the_photos_of_the_base(
    tiny_base: Base, tiny_settings: Settings, images: Callable[..., Tensor]
) -> None:
    photos = ((images(10 + HELD_OUT, 2) + 1) * 127.5).round().to(torch.uint8)
    assert (from_uint8(photos).min(), from_uint8(photos).max()) == (-1, 1)
    base = tiny_base.replace(photos=photos)
    bank = build_bank(base, tiny_settings(bank_size=300))
    # The held-out photos are not used for training.
    assert torch.equal(bank.contents.photo, from_uint8(photos[:10]))
    expected = encode_contents(base, from_uint8(photos[8:10]), tiny_settings())
    torch.testing.assert_close(bank.contents.x_t0[8:], expected.x_t0, atol=1e-4, rtol=0)
    small = build_bank(base, tiny_settings(bank_size=3))
    assert equal(small.contents, bank.contents.take(torch.arange(3)))
