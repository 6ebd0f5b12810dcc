"""Hash that identifies a style's training; styles with a registered hash are skipped."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from factory import __version__

FORMER_PRECISION = {"auto": "bfloat16", "bfloat16": "bfloat16 exactly"}
# Settings that did not exist, with the values that training took: not hashed, so that fingerprints
# in older homes stay valid.
ADDED = {"encode_solver": "ddim", "decode_solver": "ddim", "strength": 1.0, "palette": 0.0}
WITHOUT_EFFECT = (
    "checkpoint_every",
    "checkpoint_seconds",
    "recompute",
    "micro_batch",
    "memory",
)
ADAPTER = ("adapter", "adapter_rank", "adapter_alpha")
EARLY_STOPPING = ("early_stop_patience", "keep_best", "watch", "watch_every")


def fingerprint(
    image: bytes,
    counterpart: bytes | None,
    base: str,
    settings: dict[str, Any],
    contents: str | None = None,
) -> str:
    """Hash of image bytes, base fingerprint, settings and code version: 16 hex digits.

    contents: fingerprint of the photos that replace the base's own as contents.
    """
    digest = hashlib.sha256(image)
    digest.update(hashlib.sha256(counterpart or b"").digest())
    # The early-stopping settings, while off, do not affect the result either.
    relevant = {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT}
    # Precision auto was called bfloat16: hash the former names, so that fingerprints in older homes
    # stay valid.
    if (precision := relevant.get("precision")) in FORMER_PRECISION:
        relevant["precision"] = FORMER_PRECISION[precision]
    relevant = {k: v for k, v in relevant.items() if k not in ADDED or v != ADDED[k]}
    if relevant.get("precision", "float32") != "float32":
        # Losses were once taken in the forward passes' precision, which trains other weights.
        relevant["losses"] = "float32"
    if not (relevant.get("keep_best") or relevant.get("early_stop_patience")):
        relevant = {k: v for k, v in relevant.items() if k not in EARLY_STOPPING}
    if relevant.get("adapter") == "full":
        relevant = {k: v for k, v in relevant.items() if k not in ADAPTER}
    identity = [base, relevant, __version__] + ([contents] if contents else [])
    digest.update(json.dumps(identity, sort_keys=True).encode())
    return digest.hexdigest()[:16]
