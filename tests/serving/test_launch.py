"""Checks before the server starts: address, home, styles; addresses that are shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import Registry
from osasis.errors import UserError
from serving.config import ServeConfig
from serving.launch import check, page_url
from tests.factory.conftest import cli
from tests.serving.conftest import STYLES


def test_a_home_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    ran = cli("serve", "--home", tmp_path / "hoem", "--check")
    assert ran.code == 2 and "there is no home at" in ran.error and "--home" in ran.error
    assert not (tmp_path / "hoem").exists()


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.host.invalid", "203.0.113.7"])
def test_an_address_of_another_machine_is_refused(shop_home: Path, host: str) -> None:
    with pytest.raises(UserError, match=f"{host} cannot be used") as error:
        check(ServeConfig(home=str(shop_home)), host, 8000)
    assert "--host" in str(error.value)


def test_damaged_and_missing_styles_are_named(shop_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(shop_home, home)
    config = ServeConfig(home=str(home))
    assert check(config, "127.0.0.1", 8000)["styles"] >= len(STYLES)
    ink, oil = (Registry(Home(home)).get(name).folder() for name in ("ink", "oil"))
    assert ink.is_relative_to(home)
    shutil.rmtree(ink)
    weights = oil / "style.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match="style ink:1: its files are missing; style oil:1: ") as e:
        check(config, "127.0.0.1", 8000)
    assert "restore the files" in str(e.value)


def test_the_page_is_opened_on_this_machine() -> None:
    assert page_url({"url": "http://0.0.0.0:8000"}) == "http://127.0.0.1:8000/"
    assert page_url({"url": "http://[::]:81"}) == "http://127.0.0.1:81/"
    assert page_url({"url": "http://styles.example:80"}) == "http://styles.example:80/"


def test_new_keys_have_a_name_and_a_limit(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    ran = cli("serve", "--keys", keys, "--new-key", "")
    assert ran.code == 2 and "--new-key is ''" in ran.error and not keys.exists()
    ran = cli("serve", "--keys", keys, "--new-key", "alice", "--per-minute", "7", "--json")
    assert ran.code == 0 and ran.document["name"] == "alice"
    assert '"per_minute": 7' in keys.read_text()
    ran = cli("serve", "--keys", keys, "--per-minute", "7")
    assert ran.code == 2 and "give --new-key NAME" in ran.error
