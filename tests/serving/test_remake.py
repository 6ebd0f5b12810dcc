"""The command that `inspect` prints for a served image reproduces the file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factory.core.remake import provenance_of, remake_command
from tests.factory.conftest import cli
from tests.serving.conftest import Server, photo_bytes

pytestmark = pytest.mark.slow
BLEND = {"styles": [{"style": "ink", "weight": 3.0}, "sepia"], "strength": 0.7}
MASKED = {"styles": [{"style": "ink", "mask": "left"}, {"style": "oil", "mask": "right"}]}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "one style": ("image/png", "png", {"styles": ["oil"]}),
    "a blend": ("image/png", "png", BLEND),
    "noise of a blend as JPEG": ("image/jpeg", "jpg", {**BLEND, "blend": "noise"}),
    "WebP": ("image/webp", "webp", {"styles": ["sepia"], "structure": 0.3}),
    "masks": ("image/png", "png", MASKED),
    "a cut-out": ("image/png", "png", {"styles": ["oil"]}),
    "a cut-out on white": ("image/webp", "webp", {"styles": ["oil"]}),
}


def write_mask(path: Path, left: bool) -> None:
    pixels = np.zeros((48, 48), dtype=np.uint8)
    pixels[:, : 20 if left else 48] = 255
    Image.fromarray(pixels if left else 255 - pixels // 2).save(path)


@pytest.mark.ci
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("case", CASES)
def test_the_printed_command_reproduces_the_bytes(
    server: Server, shop_home: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media, suffix, mix = CASES[case]
    monkeypatch.chdir(tmp_path)
    Path("anna.png").write_bytes(photo_bytes(540, (48, 40)))
    data = {"mix": json.dumps(mix)}
    if "cut-out" in case:
        photo = Image.open("anna.png").convert("RGBA")
        photo.paste((0, 255, 0, 0), (0, 0, 20, 40))
        photo.save("anna.png")
        data |= {"alpha": "drop"} if "white" in case else {}
    files = [("image", ("anna.png", Path("anna.png").read_bytes()))]
    for name in ("left", "right") if mix is MASKED else ():
        write_mask(Path(f"{name}.png"), name == "left")
        files.append((f"mask.{name}", (f"{name}.png", Path(f"{name}.png").read_bytes())))
    answer = server.post("/v1/stylize", files=files, data=data, headers={"Accept": media})
    assert answer.status_code == 200, answer.text
    served = Path(f"served.{suffix}")
    served.write_bytes(answer.content)

    program, *call = shlex.split(remake_command(provenance_of(served)))
    assert program == "style-factory"
    ran = cli(*call, "--home", shop_home, "--no-contact-sheet")
    assert ran.code == 0, ran.err
    (made,) = Path("OUTPUT").rglob(f"anna.{suffix}")
    assert made.read_bytes() == answer.content
