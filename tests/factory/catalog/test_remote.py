"""Catalogs by URI, in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from factory.catalog.remote import read_catalog
from factory.core.stores import Store, open_store
from osasis.errors import UserError
from tests.factory.conftest import cli
from tests.store_servers import SERVERS, store_server
from tests.tiny import picture


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with store_server(request.param) as uri:
        yield uri


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> Store:
    """A store with three style images."""
    store = open_store(f"{bucket}/{tmp_path.name}")
    for i, name in enumerate(("sets/oil.png", "sets/deep/ink.png", "shared/sea blue.png")):
        data = BytesIO()
        picture(i).save(data, "PNG")
        store.write(name, data.getvalue())
    return store


def test_relative_images_lie_beside_the_catalog(store: Store) -> None:
    text = """styles:
  - image: oil.png
  - {image: ./deep/ink.png, counterpart: ../shared/sea blue.png}
  - {id: absolute, image: /photos/a.png}
  - {image: a.png, wrong: 1}
gate: [lpips<=0.5]
"""
    store.write("sets/catalog.yaml", text.encode())
    uri = f"{store.location}/sets/catalog.yaml"
    content = read_catalog(uri)
    assert [(e.id, e.image) for e in content.entries[:3]] == [
        ("oil", f"{store.location}/sets/oil.png"),
        ("ink", f"{store.location}/sets/deep/ink.png"),
        ("absolute", "/photos/a.png"),
    ]
    assert content.entries[1].counterpart == f"{store.location}/shared/sea%20blue.png"
    assert {e.file for e in content.entries} == {uri}
    (problem,) = content.problems
    assert (problem.file, problem.line, problem.field) == (uri, 5, "wrong")
    assert len(content.gate) == 1


def test_a_csv_file_and_a_folder(store: Store) -> None:
    store.write("sets/styles.csv", b"id,image\nsea,../shared/sea blue.png\n")
    (entry,) = read_catalog(f"{store.location}/sets/styles.csv").entries
    assert (entry.id, entry.image) == ("sea", f"{store.location}/shared/sea%20blue.png")
    found = read_catalog(f"{store.location}/sets").entries
    assert [(e.id, e.image) for e in found] == [
        ("ink", f"{store.location}/sets/deep/ink.png"),
        ("oil", f"{store.location}/sets/oil.png"),
    ]


def test_an_image_is_a_catalog(store: Store) -> None:
    uri = f"{store.location}/sets/oil.png"
    assert [(e.id, e.image) for e in read_catalog(uri).entries] == [("oil", uri)]


def test_paths_with_dots_are_resolved(store: Store) -> None:
    store.write("sets/c.yaml", b"styles: [{image: deep/../oil.png}, {image: deep/./ink.png}]")
    assert [e.image for e in read_catalog(f"{store.location}/sets/c.yaml").entries] == [
        f"{store.location}/sets/oil.png",
        f"{store.location}/sets/deep/ink.png",
    ]


def test_a_file_that_is_no_text_is_named_by_its_uri(store: Store) -> None:
    store.write("sets/c.yaml", store.read("sets/oil.png"))
    with pytest.raises(UserError, match=rf"^{store.location}/sets/c.yaml: not a text file"):
        read_catalog(f"{store.location}/sets/c.yaml")


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml: no such file"):
        read_catalog(f"{store.location}/none.yaml")
    with pytest.raises(UserError, match="contains no images"):
        read_catalog(f"{store.location}/nothing")
    store.write("sets/missing.yaml", b"styles: [{image: gone.png}, {image: oil.png}]")
    ran = cli("catalog", "check", f"{store.location}/sets/missing.yaml", "--home", tmp_path)
    assert ran.code == 1
    assert f"{store.location}/sets/missing.yaml:1: image " in ran.out
    assert f"{store.location}/sets/gone.png: no such file" in ran.out
    assert "1 problem(s)" in ran.out


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:TOPSECRET@bucket/styles",
        "s3://KEY:TOPSECRET@bucket/c.yaml",
        "foo://u:TOPSECRET@host/x.yaml",
        "foo://host/x?secret_key=TOPSECRET",
        "foo://host/x.yaml?secret_key=TOPSECRET",
        "s3://bucket/x?secret_key=TOPSECRET",
        "s3://bucket/x.yaml?secret_key=TOPSECRET",
    ],
)
def test_no_credential_of_a_uri_is_shown(uri: str) -> None:
    with pytest.raises(UserError) as refused:
        read_catalog(uri)
    assert "TOPSECRET" not in str(refused.value)


def test_options_of_a_uri_hold_for_the_images_of_a_catalog(store: Store) -> None:
    if not store.location.startswith("s3://"):
        pytest.skip("S3 has options that the test server satisfies")
    option = "?region=us-east-1"
    store.write("sets/c.yaml", b"styles: [{image: oil.png}]")
    (entry,) = read_catalog(f"{store.location}/sets/c.yaml{option}").entries
    assert entry.image == f"{store.location}/sets/oil.png{option}"
    images = [e.image for e in read_catalog(f"{store.location}/sets{option}").entries]
    assert images == [f"{store.location}/sets/{n}.png{option}" for n in ("deep/ink", "oil")]


@pytest.mark.parametrize("name", ["sets", "sets/c.yaml"])
def test_a_misspelled_option_of_a_uri_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"^s3://bucket/{name}: .*'regoin'; . begins the options"):
        read_catalog(f"s3://bucket/{name}?regoin=us-east-1")
