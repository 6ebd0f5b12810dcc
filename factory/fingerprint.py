"""The fingerprint of a trained style: what it is skipped by when a catalog is run again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from factory import __version__


def fingerprint(
    image: bytes, counterpart: bytes | None, base: str, settings: dict[str, Any]
) -> str:
    """Identity of a trained style: image bytes, base, settings, code version."""
    digest = hashlib.sha256(image)
    digest.update(hashlib.sha256(counterpart or b"").digest())
    # How often a checkpoint is written changes no result.
    relevant = {k: v for k, v in settings.items() if k != "checkpoint_every"}
    digest.update(json.dumps([base, relevant, __version__], sort_keys=True).encode())
    return digest.hexdigest()[:16]
