"""Hash that identifies a style's training; styles with a registered hash are skipped."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from factory import __version__


def fingerprint(
    image: bytes,
    counterpart: bytes | None,
    base: str,
    settings: dict[str, Any],
    contents: str | None = None,
) -> str:
    """Hash of image bytes, base, settings and code version: 16 hex digits.

    base: of ``LoadedBase.training_identity``. settings: of ``Method.relevant``. contents:
    fingerprint of the photos that replace the base's own as contents.
    """
    digest = hashlib.sha256(image)
    digest.update(hashlib.sha256(counterpart or b"").digest())
    identity = [base, settings, __version__] + ([contents] if contents else [])
    digest.update(json.dumps(identity, sort_keys=True).encode())
    return digest.hexdigest()[:16]
