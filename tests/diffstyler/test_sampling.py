from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.adapter import Adapter, weighted_sum
from diffstyler.base import Base, load_base
from diffstyler.inversion import Encoding, encode
from diffstyler.passes import Layer, Request
from diffstyler.prediction import Row, predict_eps
from diffstyler.prompts import embed_prompts
from diffstyler.sampling import Step, sample
from diffstyler.settings import LayerSettings, SampleSettings, make_sample_settings
from diffstyler.stylize import decode
from osasis.arithmetic import autocast
from osasis.errors import UserError
from tests.diffstyler.tiny_sd import SIZE, half_mask, picture, random_adapter

STEPS = 5


def settings(preset: str = "default", **fields: Any) -> SampleSettings:
    return make_sample_settings(preset, encode_steps=STEPS, decode_steps=STEPS, **fields)


@pytest.fixture(scope="module")
def encodings(base: Base) -> list[Encoding]:
    return encode(base, torch.stack([picture(0), picture(1)]), settings())


@pytest.fixture(scope="module")
def adapters(base: Base) -> list[Adapter]:
    """Of different ranks, which one batch pads."""
    return [random_adapter(base, 1), random_adapter(base, 2, rank=3)]


def layer(adapter: Adapter, mask: Tensor | None = None, **fields: Any) -> Layer:
    return Layer(adapter, LayerSettings(prompt="painting of <sss>", **fields), mask)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def differ(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > 1e-2


def test_a_mixed_batch_equals_each_alone(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    a, b = adapters
    left, right = half_mask("left"), half_mask("right")
    requests = [
        Request(encodings[0], (layer(a),), settings()),
        Request(encodings[1], (layer(a, left), layer(b, right)), settings()),
        Request(encodings[0], (layer(b, left, strength=0.5),), settings("reference")),
        Request(encodings[1], (layer(b, guidance=3.0, end=0.5),), settings(guidance=2.0)),
        Request(encodings[1], (), settings()),
        Request(encodings[0], (layer(b, right),), settings(inject_from="own", structure=0.3)),
    ]
    together = sample(base, requests)
    alone = [sample(base, [request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        close(one, other)
    assert all(differ(x, y) for i, x in enumerate(alone) for y in alone[:i])


def test_threads_share_a_unet(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    requests = [Request(encodings[0], (layer(a),), settings()) for a in adapters * 2]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda r: sample(base, [r])[0], requests))
    for latent, request in zip(together, requests, strict=True):
        close(latent, sample(base, [request])[0])


def test_different_shapes_and_steps_are_sampled_in_groups(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    wide = encode(base, picture(2, SIZE, SIZE + 8)[None], settings())[0]
    short = make_sample_settings(encode_steps=2, decode_steps=2)
    two = encode(base, picture(0)[None], short)[0]
    requests = [
        Request(wide, (layer(adapters[0]),), settings()),
        Request(two, (layer(adapters[0]),), short),
        Request(encodings[0], (layer(adapters[0]),), settings()),
    ]
    shapes = [latent.shape for latent in sample(base, requests)]
    assert shapes == [(4, 16, 20), (4, 16, 16), (4, 16, 16)]


def test_strength_0_is_the_base(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    # The base takes the source longer, so that both windows are set alike.
    s = settings(
        base_attention_window=0.5, base_feature_window=0.6, base_prompt="painting of <sss>"
    )
    none, plain = sample(
        base,
        [
            Request(encodings[0], (layer(adapters[0], strength=0.0),), s),
            Request(encodings[0], (), s),
        ],
    )
    close(none, plain)


def test_windows_as_shares_or_steps(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    shares = settings(attention_window=0.4, feature_window=0.6)
    steps = settings(
        window_unit="steps",
        attention_window=2.0,
        feature_window=3.0,
        base_attention_window=5.0,
        base_feature_window=5.0,
    )
    a, b = sample(base, [Request(encodings[0], (layer(adapters[0]),), s) for s in (shares, steps)])
    close(a, b)
    assert settings(attention_window=0.5, structure=3.0).window(3.0 * 0.5) == STEPS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adapter_scope", "outside_injection"),
        ("inject_from", "own"),
        ("blend_timestep", 1000),
        ("structure", 0.0),
        ("attention_window", 1.0),
        ("feature_window", 0.0),
        ("guidance", 1.0),
        ("negative_prompt", "photo"),
    ],
)
def test_each_setting_changes_the_picture(
    base: Base, encodings: list[Encoding], adapters: list[Adapter], field: str, value: Any
) -> None:
    requests = [
        Request(encodings[0], (layer(adapters[0]),), s)
        for s in (settings(), settings(**{field: value}))
    ]
    a, b = sample(base, requests)
    assert differ(a, b)


def rows_of_steps(base: Base, request: Request) -> list[list[int | None]]:
    """The layers of each step's passes."""
    found: list[list[int | None]] = []
    sample(base, [request], lambda step: found.append([p.layer for p in step.passes]))
    return found


def test_hidden_passes_are_not_computed(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    a, b = adapters
    left, white = half_mask("left"), torch.full((SIZE, SIZE), 255, dtype=torch.uint8)
    base_shows = settings(outside="base")

    def layers(s: SampleSettings, *given: Layer) -> list[int | None]:
        return rows_of_steps(base, Request(encodings[0], given, s))[0]

    assert layers(base_shows, layer(a, left)) == [None, 0]
    assert layers(base_shows, layer(a, left), layer(b, white)) == [1]
    assert layers(settings(), layer(a, left)) == [0]
    assert layers(settings(), layer(a, left), layer(b, left)) == [0, 1]


def test_styles_take_turns(base: Base, encodings: list[Encoding], adapters: list[Adapter]) -> None:
    a, b = adapters
    request = Request(encodings[0], (layer(a, end=0.4), layer(b, start=0.4, end=0.8)), settings())
    assert rows_of_steps(base, request) == [[0], [0], [1], [1], [None]]


def rows_of_passes(base: Base, requests: list[Request]) -> list[int]:
    """The rows of each forward pass."""
    sizes: list[int] = []
    handle = base.unet.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    sample(base, requests)
    handle.remove()
    return sizes


def test_the_source_is_computed_once_for_all_styles(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    layers = (layer(adapters[0], half_mask("left")), layer(adapters[1], half_mask("right")))

    def rows(inject_from: str) -> list[int]:
        return rows_of_passes(
            base, [Request(encodings[0], layers, settings(inject_from=inject_from))]
        )

    # Features are injected in the first 3 of 5 steps.
    assert rows("base") == [5, 5, 5, 4, 4]
    assert rows("own") == [6, 6, 6, 4, 4]


def test_requests_of_one_photo_share_its_source(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    requests = [
        Request(encoding, (layer(adapter),), settings())
        for encoding in encodings
        for adapter in adapters
    ]
    assert rows_of_passes(base, requests) == [10, 10, 10, 8, 8]


def test_a_pass_holds_at_most_pass_size(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    requests = [Request(encodings[n], (layer(adapters[0]),), settings()) for n in (0, 1, 1)]
    sizes: list[int] = []
    handle = base.unet.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    latents = sample(base, requests, pass_size=2)
    assert sizes == [6, 6, 6, 4, 4, 3, 3, 3, 2, 2]
    sizes.clear()
    seen: list[tuple[int, int]] = []
    photos = torch.stack([picture(0), picture(1), picture(2)])
    found = encode(base, photos, settings(), lambda *done: seen.append(done), pass_size=2)
    handle.remove()
    assert sizes == [2] * STEPS + [1] * STEPS
    assert seen == [(i + 1, 2 * STEPS) for i in range(2 * STEPS)]
    for one, other in zip(found, encodings, strict=False):
        close(one.latents, other.latents)
    for one, other in zip(latents, sample(base, requests), strict=True):
        close(one, other)


def test_later_layers_lie_over_earlier_ones(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    a, b = adapters
    left = half_mask("left")
    s = settings(outside="base", mask_edges="hard")
    covered, alone = sample(
        base,
        [
            Request(encodings[0], (layer(a, left), layer(b, left)), s),
            Request(encodings[0], (layer(b, left),), s),
        ],
    )
    close(covered, alone)


def test_guidance_of_a_layer_is_its_own(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    seen: list[Step] = []
    request = Request(encodings[0], (layer(adapters[0], guidance=0.0),), settings())
    sample(base, [request], seen.append)
    for step in seen:
        close(step.guided, step.eps[0][0])


def test_guidance_1_needs_no_row_of_the_negative_prompt(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    layers = (layer(adapters[0]), layer(adapters[1], half_mask("left"), guidance=3.0))
    one, nearly = (Request(encodings[0], layers, settings(guidance=g)) for g in (1.0, 1.0 + 1e-7))
    assert rows_of_passes(base, [nearly]) == [5, 5, 5, 4, 4]
    assert rows_of_passes(base, [one]) == [4, 4, 4, 3, 3]
    close(*(sample(base, [request])[0] for request in (one, nearly)))


def test_outside_of_the_masks_is_the_photo(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    photo = picture(0)
    request = Request(encodings[0], (layer(adapters[0], half_mask("left")),), settings())
    out = decode(base, [request], [photo])[0]
    assert torch.equal(out[:, :, SIZE // 2 :], photo[:, :, SIZE // 2 :])
    assert differ(out[:, :, : SIZE // 2], photo[:, :, : SIZE // 2])
    latent = sample(base, [request])[0]
    # The mask's edge is soft in the latent.
    assert torch.equal(latent[:, :, 9:], encodings[0].photo[:, :, 9:])


def test_a_grey_mask_mixes_softly_and_counts_as_white_with_hard_edges(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    photo = picture(0)
    grey = torch.full((SIZE, SIZE), 51, dtype=torch.uint8)

    def out(mask: Tensor | None, edges: str) -> Tensor:
        request = Request(encodings[0], (layer(adapters[0], mask),), settings(mask_edges=edges))
        return decode(base, [request], [photo])[0]

    close(out(grey, "hard"), out(None, "hard"))
    soft = out(grey, "soft")
    assert float((soft - photo).abs().max()) <= 0.2 * 2 + 1e-4
    assert differ(soft, photo)


def test_non_square_photos(base: Base, adapters: list[Adapter]) -> None:
    photo = picture(3, SIZE, SIZE + 24)
    encoding = encode(base, photo[None], settings())[0]
    mask = half_mask("right", 2 * SIZE, 2 * (SIZE + 24))
    out = decode(base, [Request(encoding, (layer(adapters[0], mask),), settings())], [photo])[0]
    assert out.shape == photo.shape
    assert torch.equal(out[:, :, :27], photo[:, :, :27])


def test_sides_that_the_latent_cuts(base: Base, adapters: list[Adapter]) -> None:
    photo = picture(3, SIZE + 1, SIZE + 3)
    encoding = encode(base, photo[None], settings())[0]
    layers = (layer(adapters[0], half_mask("right")),)
    published = decode(base, [Request(encoding, layers, settings(outside="base"))], [photo])[0]
    assert published.shape == (3, SIZE, SIZE + 2)
    message = (
        "photo 0 has 35x33 pixels, but the picture of its encoding 34x32; with outside photo they "
        "must be equal: encode this photo with sides that are multiples of 2"
    )
    with pytest.raises(UserError, match=message):
        decode(base, [Request(encoding, layers, settings())], [photo])


def test_a_weighted_sum_is_one_adapter(
    base: Base, encodings: list[Encoding], adapters: list[Adapter]
) -> None:
    one, other = adapters
    mixed = weighted_sum([one, other, one], [0.3, 0.5, 0.4])
    merged = weighted_sum([other, one], [0.5, 0.7])
    a, b, alone = sample(
        base,
        [
            Request(encodings[0], (layer(adapter),), settings())
            for adapter in (mixed, merged, weighted_sum([one], [0.7]))
        ],
    )
    close(a, b)
    assert differ(a, alone)


def test_no_requests(base: Base) -> None:
    assert sample(base, []) == []


def test_problems(base: Base, encodings: list[Encoding], adapters: list[Adapter]) -> None:
    black = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"mask 'mask' is black at 16x16 pixels"):
        sample(base, [Request(encodings[0], (layer(adapters[0], black),), settings())])
    other = make_sample_settings(encode_steps=2, decode_steps=2)
    with pytest.raises(UserError, match="no latent of timestep 501; it was made for 5 decode_step"):
        sample(base, [Request(encodings[0], (layer(adapters[0]),), other)])


def test_an_encoding_holds_the_latents_that_decoding_reads(base: Base) -> None:
    s = make_sample_settings(encode_steps=10, decode_steps=5)
    one = encode(base, picture(0)[None], s)[0]
    assert one.timesteps == (1, 201, 401, 601, 801)
    assert one.latents.shape == (5, 4, 16, 16)
    assert one.nbytes == 6 * 4 * 16 * 16 * 4
    both = encode(base, torch.stack([picture(1), picture(0)]), s)
    close(both[1].latents, one.latents)
    held = [x.untyped_storage().nbytes() for x in (both[1].photo, both[1].latents)]
    assert sum(held) == both[1].nbytes


def test_float32_is_exact_whatever_ran_before(base: Base, encodings: list[Encoding]) -> None:
    """Neither TF32, the default of convolutions on GPUs, nor an outer autocast has a part in it."""
    latents = encodings[0].photo[None]
    context = embed_prompts(base, [""])[""]
    calls: list[Callable[[], Tensor]] = [
        lambda: base.photo_latents(picture(0)[None]),
        lambda: base.decode_latents(latents),
        lambda: embed_prompts(base, ["deer"])["deer"],
        lambda: predict_eps(base, [Row(latents[0], context)], 500),
    ]
    for call in calls:
        exact = call()
        with autocast(base.device, "tf32"), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), exact)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_float16_weights(base: Base, pipeline: Path, adapters: list[Adapter]) -> None:
    half = load_base(pipeline, dtype=torch.float16)
    latents = [
        sample(b, [Request(encode(b, picture(0)[None], s)[0], (layer(adapters[0]),), s)])[0]
        for b in (base, half)
        for s in [settings(guidance=1.0)]
    ]
    assert latents[1].dtype == torch.float32
    assert float((latents[0] - latents[1]).norm() / latents[0].norm()) < 0.02
