"""Calls that concern the whole job and are refused before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines
from factory.core.home import Home
from osasis.bundles.base import load_base
from osasis.errors import UserError
from pipelines import stylize
from tests.factory.conftest import import_tiny
from tests.pipelines.conftest import register


def test_credentials_and_options_in_the_uri_of_an_output_are_refused(
    gallery: Home, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for output in ("s3://key:secret@bucket/out", "s3://bucket/out?secret_key=secret"):
        with pytest.raises(UserError) as refused:
            stylize(["oil"], photos, output, home=gallery)
        assert str(refused.value).startswith("s3://bucket/out: a location that is written to takes")
        assert "AWS_ACCESS_KEY_ID" in str(refused.value) and "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["s3://bucket/in", "s3://bucket/in/", "s3://k:s@bucket/in?a=b"])
def test_an_output_inside_its_input_in_a_store_is_refused(source: str, gallery: Home) -> None:
    with pytest.raises(UserError, match="output s3://bucket/in/out is inside input s3://bucket/in"):
        stylize(["oil"], source, "s3://bucket/in/out", home=gallery)


def test_an_output_that_is_no_folder_is_refused(
    gallery: Home, photos: Path, tmp_path: Path
) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for output, what in ((dangling, "a link to nowhere"), ("/dev/null", "no folder")):
        with pytest.raises(UserError) as refused:
            stylize(["oil"], photos, output, home=gallery)
        assert str(refused.value) == f"output {output} is {what}; give a folder"


def test_styles_of_different_bases_are_refused(
    fresh_home: Callable[[], Path], sources: Path, photos: Path, tmp_path: Path
) -> None:
    home = Home(fresh_home())
    register(home, "oil", seed=1)
    assert import_tiny(home.path, sources, "other", "--photos", str(photos)).code == 0
    register(home, "chalk", base="other", seed=9)
    prints = [load_base(home.bases / b).fingerprint for b in ("tiny", "other")]
    with pytest.raises(UserError) as refused:
        stylize(["oil", "chalk"], photos, tmp_path / "out", home=home)
    assert str(refused.value) == (
        "these styles belong to different bases; stylize base by base "
        f"(oil:1 on {prints[0]}, chalk:1 on {prints[1]})"
    )
    shutil.rmtree(home.bases / "other")
    with pytest.raises(UserError) as refused:
        stylize(["chalk"], photos, tmp_path / "out", home=home)
    missing = f"the base of chalk:1 ({prints[1]}) is not in {home.bases}; import it"
    assert str(refused.value) == missing
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": "corp"}, "fit is 'corp'; it must be one of crop, pad, resize, align"),
        ({"format": "bmp"}, "format is 'bmp'; it must be one of png"),
        ({"quality": 0}, "quality is 0; it must be a whole number in [1, 100]"),
        ({"styles": []}, "no style is named"),
        ({"styles": ["oil", "oil:1"]}, "the same style is named twice"),
        ({"source": "nowhere/"}, "nowhere/: no such folder"),
        ({"source": "*.nothing"}, "*.nothing: no photo matches"),
        ({"mix": {"strenght": 1}}, "unknown field 'strenght'"),
    ],
)
def test_user_mistakes_are_refused(
    change: dict[str, object], message: str, gallery: Home, photos: Path, tmp_path: Path
) -> None:
    call = {"styles": ["oil"], "source": photos, **change}
    with pytest.raises(UserError) as refused:
        pipelines.stylize(output=tmp_path / "out", home=gallery, **call)
    assert message in str(refused.value)
    assert not (tmp_path / "out" / ".job" / "job.json").exists()
