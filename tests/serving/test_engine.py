"""The engine without Ray: batches, caches, cancelling, failing styles, health."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.methods import LoadedBase, Style, load_base, load_style
from factory.registry import StyleVersion
from osasis.bundles.style import load_style as load_osasis_style
from osasis.bundles.style import save_style
from osasis.images.tensors import load_square
from osasis.mix import Mix
from osasis.validation import InvalidInputError
from serving.caches import ByteLru, StyleCache
from serving.engine import Engine, ImageTask
from serving.style_loader import LOAD_THREADS, StyleFailedError, StyleLoader
from serving.submissions import TaskStatus
from tests.serving.conftest import photo_bytes
from tests.tiny import write_style


@pytest.fixture(scope="module")
def base(home: Path) -> LoadedBase:
    return load_base(home / "bases" / "tiny")


@pytest.fixture(scope="module")
def folders(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {}
    for name, seed in (("a", 21), ("b", 61)):
        out[name] = tmp_path_factory.mktemp(name)
        write_style(out[name], home / "bases" / "tiny", name, seed)
    return out


@pytest.fixture(scope="module")
def low_rank(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same styles as low-rank factors."""
    out = {}
    for name, folder in folders.items():
        out[name] = tmp_path_factory.mktemp(f"{name}-low")
        image = load_square(folder / "style.png", 32)
        save_style(out[name], load_osasis_style(folder).compact(rank=2), image, -image)
    return out


def make_version(style: str, folder: Path) -> StyleVersion:
    """Version 1 of a style whose bundle is in a local folder."""
    return StyleVersion(style, 1, style, "", "", str(folder), (), 0, {}, "", folder)


def make_task(folders: dict[str, Path], *styles: str, seed: int = 0, **mix: object) -> ImageTask:
    photo = photo_bytes(600 + seed, (32, 32))
    versions = {s: make_version(s, folders[s]) for s in styles}
    return ImageTask(photo, Mix.of(*styles, **mix), versions)


MIXES = [("a",), ("b",), ("a", "b"), ("a",)]


def test_results_do_not_depend_on_the_batch(base: LoadedBase, folders: dict[str, Path]) -> None:
    engine = Engine(base, batch_wait=0.5)
    tasks = [make_task(folders, *styles, seed=i) for i, styles in enumerate(MIXES)]
    alone = [engine.submit(task).result(120) for task in tasks]
    fresh = Engine(base, batch_wait=0.5)
    batched = [f.result(120) for f in [fresh.submit(task) for task in tasks]]
    # A pass on the CPU takes one image.
    assert all(r.batch == 1 for r in alone + batched) and fresh.batches == fresh.images == 4
    for one, other in zip(alone, batched, strict=True):
        assert np.array_equal(one.image, other.image)
    again = engine.submit(tasks[0]).result(120)
    assert again.cached and not alone[0].cached and np.array_equal(again.image, alone[0].image)
    assert engine.encoded == 4 and engine.styles.loads == 2


def test_the_limit_counts_network_calls(base: LoadedBase, folders: dict[str, Path]) -> None:
    engine = Engine(base, encode_calls=30)
    exact = {"encode_solver": "fixed_point"}
    message = "encode_steps is 11; the inversion takes 33 network calls"
    with pytest.raises(InvalidInputError, match=message) as error:
        engine.submit(make_task(folders, "a", encode_steps=11, **exact)).result(9)
    assert error.value.problems[0].allowed == "at most 30 network calls"
    with pytest.raises(InvalidInputError, match="decode_steps is 20"):
        engine.submit(make_task(folders, "a", decode_steps=20, **exact)).result(9)
    assert engine.submit(make_task(folders, "a", encode_steps=11)).result(120).image is not None
    # What a style does by itself is never too much.
    assert Engine(base, encode_calls=1).submit(make_task(folders, "a")).result(120).batch == 1


def test_different_mixes_share_passes(base: LoadedBase, low_rank: dict[str, Path]) -> None:
    """As on a GPU, where a pass takes several images."""
    tasks = [make_task(low_rank, *styles, seed=i) for i, styles in enumerate(MIXES)]
    engine = Engine(base, batch_wait=0.5)
    alone = [engine.submit(task).result(120) for task in tasks]
    mixed = Engine(base, batch_wait=0.5, pass_size=16)
    together = [f.result(120) for f in [mixed.submit(task) for task in tasks]]
    assert [r.batch for r in together] == [4] * 4 and (mixed.batches, mixed.images) == (1, 4)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.image.astype(int) - other.image.astype(int)).max() <= 1


def test_an_encoding_is_shared_by_equal_inversions_only(
    base: LoadedBase, folders: dict[str, Path]
) -> None:
    engine = Engine(base, batch_wait=0.01)

    def run(**mix: object) -> tuple[bool, np.ndarray]:
        result = engine.submit(make_task(folders, "a", encode_steps=8, **mix)).result(120)
        assert result.pixels is not None
        return result.cached, result.pixels

    first = run(encode_solver="ddim")
    for changed in ({"encode_solver": "fixed_point"}, {"spacing": "quadratic"}):
        cached, pixels = run(**changed)
        assert not cached and not np.array_equal(pixels, first[1])
    cached, pixels = run(encode_solver="ddim")
    assert cached and np.array_equal(pixels, first[1])


def test_a_failing_style_does_not_affect_others(base: LoadedBase, folders: dict[str, Path],
                                                tmp_path: Path) -> None:  # fmt: skip
    engine = Engine(base)
    bad = engine.submit(make_task({**folders, "gone": tmp_path}, "gone"))
    good = engine.submit(make_task(folders, "a"))
    with pytest.raises(StyleFailedError, match="gone:1"):
        bad.result(120)
    assert good.result(120).pixels is not None
    # The next request loads the style again.
    assert engine.submit(make_task({"gone": folders["b"]}, "gone")).result(120).pixels is not None


def test_unresponsive_storage_does_not_block_other_styles(
    base: LoadedBase, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, gate = Engine(base), threading.Event()

    def slow(version: StyleVersion) -> Path:
        if version.style == "b":
            gate.wait(120)
        return Path(version.source)

    monkeypatch.setattr(StyleVersion, "folder", slow)
    engine.submit(make_task(folders, "a")).result(120)
    stuck = [engine.submit(make_task(folders, "b", seed=i)) for i in range(2 * LOAD_THREADS)]
    # A cached style, and a style that must be loaded.
    assert engine.submit(make_task(folders, "a", seed=1)).result(60).pixels is not None
    assert engine.submit(make_task({"c": folders["a"]}, "c")).result(60).pixels is not None
    assert not any(f.done() for f in stuck)
    gate.set()
    assert all(f.result(120).pixels is not None for f in stuck)
    assert engine.styles.loads == 3


def test_abandoned_tasks_are_cancelled_and_a_stall_is_reported(
    base: LoadedBase, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gate, entered = base.decode_rows, threading.Event(), threading.Event()

    def slow(*args: object, **options: object) -> torch.Tensor:
        entered.set()
        gate.wait(120)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "decode_rows", slow)
    engine = Engine(base, stall=0.2, batch_wait=0.0)
    running = engine.submit(make_task(folders, "a"))
    assert entered.wait(120)
    waiting = engine.submit(make_task(folders, "b"))
    waiting.abandon()
    assert waiting.cancelled()
    deadline = threading.Event()
    while engine.problem() is None:
        assert not deadline.wait(0.05)
    assert "one step" in str(engine.problem())
    running.abandon()  # already running: stops at the next step
    gate.set()
    with pytest.raises(Exception):  # noqa: B017
        running.result(120)
    last = engine.submit(make_task(folders, "a", seed=1)).result(120)
    assert last.pixels is not None and engine.problem() is None
    assert engine.abandoned == 1 and engine.styles.loads <= 2


def test_a_submission_tells_its_place_and_its_steps(
    base: LoadedBase, folders: dict[str, Path]
) -> None:
    engine = Engine(base, batch=1, batch_wait=0.0)
    slow = [make_task(folders, "a", seed=i, decode_steps=200) for i in range(2)]
    before = [engine.submit(task) for task in slow]
    # Photos are prepared in several threads, and queued in the order in which they are ready.
    while any(submission.ticket is None for submission in before):
        time.sleep(0.001)
    last = engine.submit(make_task(folders, "a", seed=2, decode_steps=20))
    seen: list[TaskStatus] = []
    while not last.done():
        if (status := last.status(engine.taken)) not in seen:
            seen.append(status)
        time.sleep(0.001)
    assert last.result().pixels is not None
    order = [k for k, _ in itertools.groupby(s.stage for s in seen)]
    assert [stage for stage in order if stage != "load"] == ["queue", "encode", "decode"]
    places = [s.place for s in seen if s.stage == "queue"]
    assert places == sorted(places, reverse=True) and places[0] >= 1
    steps = [s.step for s in seen if s.stage == "decode"]
    assert steps == sorted(steps) and len(steps) > 2
    assert {s.steps for s in seen if s.stage == "decode" and s.step} == {10}
    # A task that is cancelled while its photo is encoded stops there.
    running = engine.submit(make_task(folders, "a", seed=9, encode_steps=200))
    while running.stage != "encode":
        time.sleep(0.001)
    running.abandon()
    with pytest.raises(Exception):  # noqa: B017
        running.result(60)
    assert engine.abandoned == 1 and engine.encoded == 3


def test_caches_stay_within_their_budget() -> None:
    lru: ByteLru[bytes] = ByteLru(10, len)
    lru.pinned = frozenset({"p"})
    for key in ("p", "a", "b"):
        lru.put(key, b"1234")
    assert [k for k in "pab" if lru.get(k)] == ["p", "b"] and lru.bytes == 8
    lru.put("huge", b"x" * 11)
    assert lru.get("p") and len(lru) == 1 and lru.bytes == 4
    # Pinned values too: the one that was not used for the longest time goes.
    lru.pinned = frozenset({"p", "q"})
    lru.put("q", b"1234567")
    assert lru.get("p") is None and lru.get("q") and lru.bytes == 7


def test_500_styles_in_bounded_memory(
    base: LoadedBase, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    style = load_style(folders["a"], base)
    monkeypatch.setattr("serving.style_loader.load_style", lambda *_: style)
    cache = StyleCache(10 * style.nbytes, 0, torch.device("cpu"))
    loader = StyleLoader(base, cache)
    for i in range(500):
        assert loader.submit(make_version(f"s{i}", folders["a"])).result(60) is style
        assert cache.host.bytes <= cache.host.budget
    assert cache.loads == 500 and len(cache.host) == 10


def test_concurrent_requests_load_a_style_once(
    base: LoadedBase, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    style, gate = load_style(folders["a"], base), threading.Event()

    def load(folder: Path, _: LoadedBase) -> Style:
        if folder == folders["a"]:
            gate.wait(60)
        return style

    monkeypatch.setattr("serving.style_loader.load_style", load)
    cache = StyleCache(10**9, 0, torch.device("cpu"))
    loader = StyleLoader(base, cache)
    found = [loader.submit(make_version("x", folders["a"])) for _ in range(5)]
    # Loading another style does not wait.
    assert loader.submit(make_version("y", folders["b"])).result(60) is style
    assert not any(f.done() for f in found)
    gate.set()
    assert all(f.result(60) is style for f in found) and cache.loads == 2
    # A cached style is there at once.
    assert loader.submit(make_version("x", folders["a"])).done() and cache.loads == 2
