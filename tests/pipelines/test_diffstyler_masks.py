"""What a corpus has outside of the masks of a DiffStyler style: photo, or picture of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.settings import make_settings
from diffstyler.style import Style, save_style
from factory.methods import keeps_photo, load_base
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.mix import Mix
from pipelines.job_folder import JobFolder
from pipelines.job_spec import JobSpec, StyleSpec, TargetSpec
from pipelines.manifest import build_manifest
from pipelines.masks import read_masks
from pipelines.options import OutputOptions
from pipelines.read_squares import READ_TASK, read_squares
from pipelines.source import open_source
from pipelines.stylize_squares import StylizeSquares
from pipelines.write_outputs import write_outputs
from tests.diffstyler.tiny_base import FEW, write_base
from tests.diffstyler.tiny_sd import SIZE, half_mask, picture, random_adapter


def test_outside_of_masks_is_what_the_style_says(tmp_path: Path) -> None:
    tiny = write_base(tmp_path / "base")
    base: Any = load_base(tiny)
    adapter, info = random_adapter(base.networks, 1), {"base": base.fingerprint}
    styles, specs = {}, {}
    for name in ("photo", "base"):
        folder = tmp_path / name
        settings = make_settings("default", **FEW, outside=name)
        styles[name] = Style(name, adapter, "painting of a", settings, info)
        save_style(folder, styles[name], picture(3))
        specs[name] = StyleSpec(
            reference=f"{name}:1", fingerprint=name, folder=str(folder),
            keeps_photo=keeps_photo(folder),
        )  # fmt: skip
    mixes = [Mix.parse({"styles": [{"style": name, "mask": "left"}]}) for name in styles]
    targets = tuple(
        TargetSpec(label=name, mix=mix) for name, mix in zip(styles, mixes, strict=True)
    )
    (tmp_path / "in").mkdir()
    photo = tensor_to_image(picture(1))
    photo.save(tmp_path / "in" / "a.png")
    Image.fromarray(half_mask("left").numpy()).save(tmp_path / "left.png")
    options = OutputOptions()
    folder = JobFolder(tmp_path / "out")
    source = open_source(tmp_path / "in")
    folder.open({"input": ""}, build_manifest(source, [[0, 1]], {}))
    job = JobSpec(
        code="0", run=folder.run, folder=folder.place.location, output=str(tmp_path / "out"),
        base=str(tiny), base_fingerprint=base.fingerprint, square=SIZE, styles=specs,
        targets=targets, text_edits="", options=options, input=source.folder,
        masks=read_masks({"left": tmp_path / "left.png"}, targets, options),
    )  # fmt: skip
    actor = StylizeSquares(job, "cpu")
    tasks = pa.Table.from_pylist([{"index": 0, "todo": [0, 1]}], schema=READ_TASK)
    for squares in read_squares(tasks, job):
        write_outputs(actor(squares), job)

    def written(name: str) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / "out" / name / "a.png")).astype(int)

    before = np.asarray(photo).astype(int)
    assert np.array_equal(written("photo")[:, SIZE // 2 :], before[:, SIZE // 2 :])
    assert np.abs(written("base") - before)[:, SIZE // 2 :].mean() > 4
    plan = base.plan(mixes[1], styles["base"].settings)
    recipe = base.recipe(mixes[1], styles, plan, masks={"left": half_mask("left") / 255})
    encodings = base.encode(image_to_tensor(photo)[None], plan)
    (decoded,) = base.decode_rows([(encodings, recipe)])
    assert np.abs(written("base") - np.asarray(tensor_to_image(decoded)).astype(int)).max() <= 1
