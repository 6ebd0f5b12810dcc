"""Output names: unique, and short enough for a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from factory.core.stores import open_store
from pipelines.manifest import output_names, shortened


def test_no_two_outputs_share_a_name() -> None:
    given = [b"a.jpg", b"a.png", b"A.PNG", b"x/a.png", b"a.jpg", b"../../etc/x.png", b"caf\xe9.png"]
    names = [
        b"a.jpg", b"a.png", b"A.PNG~2", b"x/a", b"a.jpg~2", b"etc/x", b"caf\xe9",
    ]  # fmt: skip
    assert output_names(given) == (names, 0)


def test_long_names_are_shortened_with_a_hash() -> None:
    long = b"x" * 251
    # Alone, the name without its suffix fits; of a pair, each keeps its suffix.
    assert output_names([long + b".png"], 251) == ([long], 0)
    given = [long + b".png", long + b".jpg", b"sub/" + long + b"yy.png"]
    names, count = output_names(given, 251)
    hashed = [given[0], given[1], long + b"yy"]
    digests = [hashlib.sha256(name).hexdigest()[:12].encode() for name in hashed]
    start = b"x" * 238 + b"~"
    assert names == [start + digests[0], start + digests[1], b"sub/" + start + digests[2]]
    assert count == 3
    assert {len(n.split(b"/")[-1]) for n in names} == {251}
    # A name does not depend on the other long names.
    assert output_names(given[2:], 251)[0] == names[2:]


def test_long_folders_and_numbered_names_are_shortened_too() -> None:
    key = b"f" * 300 + b"/a.png"
    (name,), count = output_names([key], 251)
    assert [len(part) for part in name.split(b"/")] == [255, 1]
    assert count == 1
    names, count = output_names([b"y" * 251 + b".png"] * 3, 251)
    assert len(set(names)) == 3
    assert max(map(len, names)) == 251
    assert names == output_names([b"y" * 251 + b".png"] * 3, 251)[0]


def test_no_character_is_cut() -> None:
    for name in ("\u00e4" * 200, "a" + "\U0001f600" * 100, "\u20ac" * 99):
        for longest in range(40, 46):
            short = shortened(name.encode(), longest)
            assert longest - 3 <= len(short) <= longest
            assert name.startswith(short[:-13].decode())
    assert len(shortened(b"\x80" * 300, 251)) == 248  # no UTF-8 at all


def test_the_limit_is_the_file_systems(tmp_path: Path) -> None:
    assert open_store(tmp_path).longest_name == 255
