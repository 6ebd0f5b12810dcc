"""DiffStyler behind the interface of methods: training, bundles, mixes, one engine for many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.adapter_files import published_tensors, save_adapter
from diffstyler.settings import make_settings
from diffstyler.style import Style, save_style
from factory.methods import check_mix, load_base, load_style, read_base_info
from factory.methods.diffstyler.base import DiffStylerBase
from factory.methods.diffstyler.method import DiffStylerMethod
from factory.registry import StyleVersion
from factory.training.style_worker import CHECKPOINT, StyleTask, StyleWorker
from osasis.bundles.base import load_base as load_osasis_base
from osasis.bundles.files import shipped_bases
from osasis.errors import UserError
from osasis.images.decoding import png_bytes
from osasis.images.tensors import from_uint8, tensor_to_image
from osasis.mix import Mix
from osasis.storage import save_tensors
from osasis.validation import InvalidInputError
from serving.engine import Engine, ImageTask
from tests.diffstyler.tiny_base import FEW, write_base
from tests.diffstyler.tiny_sd import SIZE, half_mask, random_adapter
from tests.diffstyler.tiny_sd import picture as smooth
from tests.tiny import picture, write_style

SETTINGS = make_settings("default", **FEW)
# Rounding of products, whose order depends on the size of a batch.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> DiffStylerBase:
    loaded = load_base(folder)
    assert isinstance(loaded, DiffStylerBase)
    return loaded


@pytest.fixture(scope="module")
def styles(base: DiffStylerBase) -> dict[str, Style]:
    """Two styles with random adapters and different prompts."""
    return {
        name: Style(name, random_adapter(base.networks, seed), f"painting of {name}", SETTINGS)
        for seed, name in enumerate("ab", start=1)
    }


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.stack([smooth(seed) for seed in (1, 2)])


def masks() -> dict[str, Tensor]:
    return {side: half_mask(side).float() / 255 for side in ("left", "right")}


def stylized(
    base: DiffStylerBase, photos: Tensor, styles: dict[str, Style], mix: Mix, **options: Any
) -> Tensor:
    check_mix(mix, base.info)
    plan = base.plan(mix, styles[mix.styles[0].style].settings)
    recipe = base.recipe(mix, styles, plan, masks=masks())
    return base.decode_rows([(base.encode(photos, plan), recipe)], **options)


# Training


def task(place: Path, name: str, **changes: Any) -> StyleTask:
    picture(100, (48, 40)).save(place / "oil.png")
    settings = SETTINGS.replace(checkpoint_every=2, **changes)
    return StyleTask("oil", place / "oil.png", None, "print", settings, place / name, tags=("x",))


@pytest.fixture
def worker(folder: Path, base: DiffStylerBase, tmp_path: Path) -> StyleWorker:
    assert base.held_out is not None
    save_tensors(tmp_path / "previews.safetensors", {"photos": from_uint8(base.held_out)})
    return StyleWorker(base, from_uint8(base.held_out))


def test_an_interrupted_training_resumes_bit_for_bit(worker: StyleWorker, tmp_path: Path) -> None:
    seen: list[int] = []

    def note(iteration: int, of: int, losses: dict[str, float]) -> None:
        seen.append(iteration)

    def interrupt(iteration: int, of: int, losses: dict[str, float]) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    changes = {"crop": True, "flip": True}
    worker.train(task(tmp_path, "whole", **changes), note)
    killed = task(tmp_path, "killed", **changes)
    with pytest.raises(KeyboardInterrupt):
        worker.train(killed, interrupt)
    assert {p.name for p in killed.folder.iterdir()} == {CHECKPOINT}
    worker.train(killed, note)
    assert seen == [1, 2, 3, 4, 3, 4]
    for name in ("style/style.safetensors", "style/style.png", "previews/00.png"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (killed.folder / name).read_bytes() == whole, name
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "killed")]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert set(results[0]["metrics"]) == set(DiffStylerMethod.metrics)


def test_a_bundle_names_its_method_and_keeps_the_image(
    worker: StyleWorker, base: DiffStylerBase, tmp_path: Path
) -> None:
    trained = task(tmp_path, "work", content="a deer")
    worker.train(trained, lambda *now: None)
    bundle = trained.folder / "style"
    style = load_style(bundle, base)
    assert isinstance(style, Style)
    assert (style.prompt, style.id) == ("painting of <sss>, a deer", "oil")
    assert style.info["method"] == "diffstyler"
    assert style.info["base"] == base.fingerprint
    # The longer side keeps its proportion: 48 x 40 pixels with a shorter side of 32.
    assert Image.open(bundle / "style.png").size == (40, 32)
    assert not (bundle / "counterpart.png").exists()
    assert all(t.dtype == torch.float16 for t in style.tensors())
    # Without the base, for checks of a bundle whose base is elsewhere.
    for a, b in zip(style.tensors(), load_style(bundle).tensors(), strict=True):
        assert torch.equal(a, b)
    (bundle / "style.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"its SHA-256 differs from style\.json"):
        load_style(bundle, base)


# Mixes


def test_a_mixed_batch_equals_each_alone(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    two = [{"style": "a", "mask": "left"}, {"style": "b", "mask": "right"}]
    mixes = [
        Mix.of("a"),
        Mix.of("b", strength=0.5, guidance=1.5),
        Mix.of("a", "b", blend="noise"),
        Mix.parse({"styles": two, "attention_window": 1.0}),
    ]
    plan = base.plan(None, SETTINGS)
    encodings = base.encode(photos, plan)
    recipes = [base.recipe(mix, styles, plan, masks=masks()) for mix in mixes]
    rows = [(encodings.take(slice(i % 2, i % 2 + 1)), r) for i, r in enumerate(recipes)]
    alone = [base.decode_rows([row], pass_size=1) for row in rows]
    # A pass of one photo computes the same whatever else is decoded.
    assert torch.equal(base.decode_rows(rows, pass_size=1), torch.cat(alone))
    together = base.decode_rows(rows, pass_size=4)
    assert float((together - torch.cat(alone)).abs().max()) < ROUNDING
    assert base.groups(recipes, 4) == [[0, 1, 2, 3]]
    assert base.groups(recipes, 1) == [[0], [1], [2], [3]]


def test_masks_limit_styles_and_later_ones_lie_over_earlier_ones(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    left = Mix.parse({"styles": [{"style": "a", "mask": "left"}]})
    pictures = stylized(base, photos, styles, left)
    # Outside of all masks lies the photo itself.
    assert torch.equal(pictures[..., SIZE // 2 :], photos[..., SIZE // 2 :])
    assert not torch.equal(pictures[..., : SIZE // 2], photos[..., : SIZE // 2])
    covered = Mix.parse({"styles": [{"style": "a", "mask": "left"}, {"style": "b"}]})
    # The base's pass is not seen, nor is style a.
    alone = stylized(base, photos, styles, Mix.of("b"))
    assert float((stylized(base, photos, styles, covered) - alone).abs().max()) < ROUNDING


def test_blends_of_weights_and_of_predictions(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    # Of a style with itself, both are the style alone.
    same = {"a": styles["a"], "b": replace(styles["a"], id="b")}
    alone = stylized(base, photos, same, Mix.of("a"))
    for blend in ("weights", "noise"):
        shares = [{"style": "a", "weight": 1}, {"style": "b", "weight": 3}]
        mix = Mix.parse({"styles": shares, "blend": blend})
        assert float((stylized(base, photos, same, mix) - alone).abs().max()) < 1e-3, blend
    # A hundredth of another style is nearly none.
    little = Mix.parse(
        {"styles": [{"style": "a", "weight": 1}, {"style": "b", "weight": 1e-4}], "blend": "noise"}
    )
    near = stylized(base, photos, styles, little)
    assert 0 < float((near - alone).abs().max()) < 0.05


def test_fields_change_the_picture(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    plain = stylized(base, photos, styles, Mix.of("a"))
    for change in (
        {"guidance": 5.0},
        {"negative_prompt": "grey"},
        {"attention_window": 0.0},
        {"feature_window": 0.0},
        {"structure": 0.0},
        {"strength": 0.0},
        {"decode_steps": 2},
    ):
        assert not torch.equal(stylized(base, photos, styles, Mix.of("a", **change)), plain), change
    # structure scales both windows.
    none = stylized(base, photos, styles, Mix.of("a", attention_window=0.0, feature_window=0.0))
    assert torch.equal(stylized(base, photos, styles, Mix.of("a", structure=0.0)), none)


def test_inversion_follows_decode_steps_that_are_set_alone(base: DiffStylerBase) -> None:
    assert base.plan(Mix.of("a", decode_steps=7), SETTINGS).steps == 7
    assert base.plan(Mix.of("a", decode_steps=2), SETTINGS).steps == 4
    with pytest.raises(InvalidInputError, match=r"encode_steps is 5, but inversion must visit"):
        base.plan(Mix.of("a", encode_steps=5), SETTINGS)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"content_cutoff": 16}, "content_cutoff is no field of a mix of method diffstyler"),
        ({"level_weights": [1.0]}, "level_weights is no field of a mix of method diffstyler"),
        ({"t0": 0.5}, "t0 is no field of a mix of method diffstyler"),
        ({"text_edit": "smile"}, "text_edit is no field of a mix of method diffstyler"),
        ({"decode_steps": 1000}, r"decode_steps is 1000; it must be a whole number in \[1, 999\]"),
        (
            {"styles": [{"style": "a", "mask": "left", "weight": 2}]},
            r"styles\[0\]\.weight is 2, but later masks lie over earlier ones",
        ),
    ],
)
def test_mixes_of_other_methods_are_refused(
    base: DiffStylerBase, mix: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_mix(Mix.parse({"styles": ["a"], **mix}), base.info)


def test_black_masks_and_long_prompts_are_refused(
    base: DiffStylerBase, styles: dict[str, Style], photos: Tensor
) -> None:
    plan = base.plan(None, SETTINGS)
    mix = Mix.parse({"styles": [{"style": "a", "mask": "m"}]})
    black = {"m": torch.zeros(SIZE, SIZE)}
    with pytest.raises(UserError, match="mask 'm' is black at 16x16 pixels"):
        base.recipe(mix, styles, plan, masks=black)
    long = Mix.of("a", negative_prompt="a " * 90)
    with pytest.raises(UserError, match=r"tokens with its start and end; the text encoder reads"):
        base.recipe(long, styles, plan)


# Bases and files


def test_a_base_needs_an_image_size(folder: Path, tmp_path: Path) -> None:
    info = json.loads((folder / "base.json").read_text())
    (tmp_path / "base.json").write_text(json.dumps(info | {"image_size": 100}))
    with pytest.raises(UserError, match="image_size is 100; it must be a multiple of 8"):
        read_base_info(tmp_path)
    (tmp_path / "base.json").write_text(json.dumps(info | {"method": "other"}))
    with pytest.raises(UserError, match="method 'other' is unknown; this version has osasis, diff"):
        read_base_info(tmp_path)


def test_a_style_of_the_other_method_is_refused(base: DiffStylerBase, tmp_path: Path) -> None:
    shipped = shipped_bases()["portraits64"]
    write_style(tmp_path, shipped, "oil")
    with pytest.raises(UserError, match="a style of method osasis, but base tiny-sd is of method"):
        load_style(tmp_path, base)
    with pytest.raises(UserError, match="a base of method diffstyler, but one of method osasis is"):
        load_osasis_base(base.folder)


def test_a_damaged_file_of_a_base_is_named(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "base"
    shutil.copytree(folder, copied)
    info = json.loads((copied / "base.json").read_text())
    (copied / "base.json").write_text(json.dumps(info | {"files": {"unet/config.json": "0" * 64}}))
    with pytest.raises(UserError, match=r"unet/config\.json: its SHA-256 differs from base\.json"):
        load_base(copied)


def peft_layout(style: Style) -> dict[str, Tensor]:
    """The tensors as peft names them."""
    sides = {"down": "lora_A", "up": "lora_B"}
    found = {}
    for key, value in published_tensors(style.adapter).items():
        at, side = key.removesuffix(".weight").rsplit(".", 1)
        at = at.replace(".processor", "").removesuffix("_lora").replace("to_out", "to_out.0")
        found[f"{at}.{sides[side]}.weight"] = value
    return found


@pytest.mark.parametrize("layout", ["published", "peft"])
def test_adapter_files_become_styles(
    base: DiffStylerBase, styles: dict[str, Style], tmp_path: Path, layout: str
) -> None:
    file = tmp_path / "lora.safetensors"
    if layout == "published":
        save_adapter(file, styles["a"].adapter)
    else:
        save_tensors(file, peft_layout(styles["a"]))
    picture(5).save(tmp_path / "oil.png")
    made, save = base.import_style("oil", file, tmp_path / "oil.png", None, "painting of <sss>")
    save(tmp_path / "style")
    assert (made.id, made.low_rank) == ("oil", True)
    loaded = load_style(tmp_path / "style", base)
    assert isinstance(loaded, Style) and loaded.prompt == "painting of <sss>"
    expected = published_tensors(styles["a"].half().adapter)
    found = published_tensors(loaded.adapter)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    with pytest.raises(UserError, match="--counterpart is for styles of OSASIS"):
        base.import_style("oil", file, tmp_path / "oil.png", file, None)


# Serving


@pytest.fixture
def bundle(base: DiffStylerBase, styles: dict[str, Style], tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        save_style(tmp_path / name, styles[name], smooth(3))
        return tmp_path / name

    return write


def version(name: str, folder: Path) -> StyleVersion:
    return StyleVersion(name, 1, name, "", "", str(folder), (), 0, {}, "", Path())


def test_an_engine_holds_100_adapters_in_bounded_memory(
    base: DiffStylerBase, bundle: Callable[[str], Path]
) -> None:
    budget = 10 * load_style(bundle("a"), base).nbytes
    engine = Engine(base, styles_host=budget)
    photo = png_bytes(tensor_to_image(smooth(1)))
    folder = bundle("a")
    results = [
        engine.submit(
            ImageTask(photo, Mix.of(f"s{i}", decode_steps=1), {f"s{i}": version(f"s{i}", folder)})
        ).result(60)
        for i in range(100)
    ]
    assert (engine.styles.loads, len(engine.styles.host)) == (100, 10)
    assert engine.styles.host.bytes <= budget
    # One photo was encoded once, and its pictures in equal adapters are equal.
    assert engine.encoded == 1
    assert all((r.image == results[0].image).all() for r in results)


def test_an_engine_mixes_two_styles_with_masks(
    base: DiffStylerBase, bundle: Callable[[str], Path]
) -> None:
    engine = Engine(base)
    photo = smooth(1)
    mix = Mix.parse({"styles": [{"style": "a", "mask": "left"}, {"style": "b", "mask": "left"}]})
    task = ImageTask(
        png_bytes(tensor_to_image(photo)),
        mix,
        {name: version(name, bundle(name)) for name in "ab"},
        {"left": png_bytes(Image.fromarray(half_mask("left").numpy()))},
    )
    done = engine.submit(task).result(60)
    original = torch.from_numpy(done.image).permute(2, 0, 1)[..., SIZE // 2 :]
    # Outside of the mask lies the photo.
    expected = ((photo + 1) * 127.5).round().to(torch.uint8)[..., SIZE // 2 :]
    assert torch.equal(original, expected)
    refused = engine.submit(replace(task, mix=mix.replace(encode_steps=5)))
    with pytest.raises(InvalidInputError, match="encode_steps is 5"):
        refused.result(60)


def test_the_defaults_of_a_mix_change_nothing(
    base: DiffStylerBase, styles: dict[str, Style]
) -> None:
    found = DiffStylerMethod().mix_defaults({"settings": SETTINGS.to_dict()}, base.info)
    assert set(found) <= DiffStylerMethod.mix_fields
    plain, explicit = Mix.of("a"), Mix.of("a", **found)
    check_mix(explicit, base.info)
    assert base.plan(explicit, SETTINGS) == base.plan(plain, SETTINGS)
    recipes = [base.recipe(mix, styles, base.plan(mix, SETTINGS)) for mix in (plain, explicit)]
    assert recipes[0].settings == recipes[1].settings
    assert recipes[0].layers[0].settings == recipes[1].layers[0].settings
