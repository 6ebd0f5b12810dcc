"""The fingerprint of a training: a registered fingerprint is skipped when a catalog runs again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from factory import __version__

FORMER_PRECISION = {"auto": "bfloat16", "bfloat16": "bfloat16 exactly"}
WATCHING = ("early_stop_patience", "keep_best", "watch", "watch_every")


def fingerprint(
    image: bytes,
    counterpart: bytes | None,
    base: str,
    settings: dict[str, Any],
    contents: str | None = None,
) -> str:
    """Identity of a trained style: image bytes, base, settings, code version.

    contents: of the photos that a run brought along as contents, where it did.
    """
    digest = hashlib.sha256(image)
    digest.update(hashlib.sha256(counterpart or b"").digest())
    # How often a checkpoint is written changes no result, nor does a watch that is off.
    relevant = {k: v for k, v in settings.items() if k != "checkpoint_every"}
    # Older homes know precision auto by its former name, bfloat16: their styles stay registered.
    if (precision := relevant.get("precision")) in FORMER_PRECISION:
        relevant["precision"] = FORMER_PRECISION[precision]
    if not (relevant.get("keep_best") or relevant.get("early_stop_patience")):
        relevant = {k: v for k, v in relevant.items() if k not in WATCHING}
    identity = [base, relevant, __version__] + ([contents] if contents else [])
    digest.update(json.dumps(identity, sort_keys=True).encode())
    return digest.hexdigest()[:16]
