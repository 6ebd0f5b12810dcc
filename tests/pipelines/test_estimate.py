"""The estimate of a corpus job: from a probe, and from the log of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.core.home import Home
from pipelines import stylize
from tests.tiny import picture


@pytest.mark.slow
def test_a_probe_measures_and_leaves_nothing_behind(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = stylize(
        ["oil", "ink"], photos, output, home=gallery, workers=1, readers=1, estimate=True
    )
    found = result.estimate
    assert (result.images, result.photos, found["images"], found["mixes"]) == (0, 9, 18, 2)
    assert (found["measured"], found["workers"], found["device"]) == ("probe", 1, "cpu")
    assert found["styles"] == ["oil:1", "ink:1"] and found["gpu_hours"] == 0
    assert 0 < found["seconds_per_image"] < 60
    # One worker makes the images one after the other.
    assert found["seconds"] > 18 * found["seconds_per_image"] * 0.99
    # PNGs of about 40x44 random pixels.
    assert 18 * 500 < found["bytes"] < 18 * 12_000
    assert not output.exists()


def test_the_log_of_an_earlier_run_tells_the_speed_and_what_exists(
    gallery: Home, photos: Path, local_ray: None, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (output / ".job" / "state" / "log").mkdir(parents=True)
    (output / ".job" / "job.json").write_text(json.dumps({"format": 2, "state": "state"}))
    (output / "oil").mkdir()
    for name in ("0.png", "1.png"):
        picture(1).save(output / "oil" / name)
    lines = [{"busy": 30.0, "images": 8}, {"photo": 0, "target": 0, "status": "done"},
             {"busy": 10.0, "images": 2}]  # fmt: skip
    log = output / ".job" / "state" / "log" / "000000-ab.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    found = stylize(
        ["oil"], photos, output, home=gallery, workers=2, readers=1, estimate=True
    ).estimate
    assert (found["existing"], found["images"], found["measured"]) == (2, 7, "history")
    # 40 s for 10 images; two workers share 7 of them.
    assert (found["seconds_per_image"], found["seconds"]) == (4.0, 14.0)
    assert found["bytes"] == 7 * len(before[output / "oil" / "0.png"])
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
