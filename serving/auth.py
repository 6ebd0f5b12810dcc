"""API keys with a rate limit each. Only hashes of keys are stored."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from osasis.errors import UserError
from osasis.storage import write_json
from serving.errors import ApiError

PER_MINUTE = 600
# Seconds between two looks at the key file.
LOOK_SECONDS = 1.0


class Keys:
    """Checks API keys and limits their rate with a token bucket that holds one minute's requests.

    path: the key file, which is read again when it changes; None serves every client. report:
    called with the error of a file that has become invalid; its last valid keys stay in use.
    """

    def __init__(
        self, path: Path | None, report: Callable[[str], None] = lambda text: None
    ) -> None:
        self.keys = read_keys(path) if path is not None else None
        self._path, self._report = path, report
        self._state, self._looked = _file_state(path), time.monotonic()
        self._buckets: dict[str, tuple[float, float]] = {}

    def _follow(self) -> None:
        """Read the file again if it has changed; looks at most once in LOOK_SECONDS."""
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if (state := _file_state(self._path)) == self._state:
            return
        self._state = state
        try:
            self.keys = read_keys(self._path)
        except UserError as e:
            self._report(str(e))

    def check(self, key: str | None) -> str:
        """Count a request and return the key's name. Raises ApiError 401 or 429."""
        self._follow()
        if self.keys is None:
            return "anonymous"
        entry = self.keys.get(hash_key(key)) if key else None
        if entry is None:
            needed = "an API key is needed: send Authorization: Bearer KEY"
            raise ApiError(401, "the API key is unknown" if key else needed, field="Authorization",
                           headers={"WWW-Authenticate": 'Bearer realm="style-factory"'}
                           )  # fmt: skip
        name, per_minute = entry
        now = time.monotonic()
        tokens, last = self._buckets.get(name, (float(per_minute), now))
        tokens = min(float(per_minute), tokens + (now - last) * per_minute / 60)
        if tokens < 1:
            self._buckets[name] = (tokens, now)
            wait = max(1, int((1 - tokens) * 60 / per_minute + 0.999))
            raise ApiError(429, f"key {name!r} has used its requests of this minute",
                           allowed=f"{per_minute} a minute", retry_after=wait)  # fmt: skip
        self._buckets[name] = (tokens - 1, now)
        return name


def _file_state(path: Path | None) -> tuple[int, int, int] | None:
    """What changes with the content of a file; None where there is none."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def hash_key(key: str) -> str:
    # Keys are 256 random bits, so that a slow hash is not needed.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(path: Path, name: str, per_minute: int = PER_MINUTE) -> str:
    """Add a key to the file and return it; only its hash is stored. Raises UserError."""
    if not (1 <= len(name) <= 100 and name.isprintable() and name.strip() == name):
        raise UserError(f"--new-key is {name[:100]!r}; it must be a name of 1 to 100 characters")
    if path.is_file():
        read_keys(path)
    known = json.loads(path.read_text()) if path.is_file() else {}
    if name in known:
        raise UserError(f"{path}: key {name!r} exists already; choose another name")
    key = "sf_" + secrets.token_urlsafe(32)
    known[name] = {"sha256": hash_key(key), "per_minute": per_minute}
    write_json(path, known)
    path.chmod(0o600)
    return key


def read_keys(path: Path) -> dict[str, tuple[str, int]]:
    """Name and requests per minute of each key, by hash. Raises UserError."""
    try:
        data = json.loads(path.read_text())
        keys = {v["sha256"]: (name, int(v.get("per_minute", PER_MINUTE)))
                for name, v in data.items()}  # fmt: skip
    except OSError as e:
        raise UserError(f"keys: {path}: {(e.strerror or 'cannot be read').lower()}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(
            f"keys: {path}: it must be JSON as `style-factory serve --new-key NAME` writes it"
        ) from None
    for name, per_minute in keys.values():
        if per_minute < 1:
            raise UserError(f"keys: {path}: per_minute of {name!r} is {per_minute}; "
                            "it must be at least 1")  # fmt: skip
    return keys
