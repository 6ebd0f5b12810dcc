"""API keys: hashes, rate limits, errors of the key file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osasis.errors import UserError
from serving.auth import Keys, new_key, read_keys
from serving.errors import ApiError


def test_rate_limit_allows_a_burst_and_refills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "keys.json", [1000.0]
    monkeypatch.setattr("serving.auth.time.monotonic", lambda: now[0])
    key = new_key(path, "alice", per_minute=6)
    keys = Keys(path)
    for _ in range(6):
        assert keys.check(key) == "alice"
    with pytest.raises(ApiError) as e:
        keys.check(key)
    assert (e.value.status, e.value.headers["Retry-After"]) == (429, "10")
    now[0] += 9.9
    with pytest.raises(ApiError):
        keys.check(key)
    now[0] += 0.2
    assert keys.check(key) == "alice"
    now[0] += 3600
    for _ in range(6):
        keys.check(key)
    with pytest.raises(ApiError):
        keys.check(key)


def test_only_hashes_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    assert key not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="exists already"):
        new_key(path, "alice")
    for wrong in (None, "", key[:-1], "sf_é"):
        with pytest.raises(ApiError) as e:
            Keys(path).check(wrong)
        assert e.value.status == 401
    assert Keys(None).check(None) == "anonymous"


def test_the_key_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now, told = tmp_path / "keys.json", [1000.0], []
    monkeypatch.setattr("serving.auth.time.monotonic", lambda: now[0])
    alice = new_key(path, "alice")
    keys = Keys(path, told.append)
    bob = new_key(path, "bob")
    with pytest.raises(ApiError):
        keys.check(bob)
    now[0] += 1.1
    assert keys.check(bob) == "bob"
    # An invalid file is reported, and the last valid keys stay in use.
    path.write_text("{")
    now[0] += 1.1
    assert keys.check(alice) == "alice" and len(told) == 1 and "keys.json" in told[0]
    path.write_text("{}")
    now[0] += 1.1
    with pytest.raises(ApiError):
        keys.check(alice)


@pytest.mark.parametrize("name", ["", " alice", "a" * 101, "a\nb"])
def test_names_of_keys(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--new-key is"):
        new_key(tmp_path / "keys.json", name)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"a": 1}', '{"a": {}}', json.dumps({"a": {"sha256": "x", "per_minute": 0}})],
)
def test_an_invalid_key_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"keys\.json"):
        read_keys(path)
    with pytest.raises(UserError, match="no such file"):
        read_keys(tmp_path / "none.json")
