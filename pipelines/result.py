"""What a corpus job leaves for people: a summary, a contact sheet, and the value it returns."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"
CONTACT = "contact.html"
# Errors that a summary lists one by one; all of them are in errors.parquet.
LISTED_ERRORS = 1000


@dataclass(frozen=True)
class StylizeResult:
    """A job over a corpus after a run. A notebook shows it as a table.

    images: outputs that are there, of all runs; done_before: of earlier ones. errors: id, path,
    style, stage and reason of every output that is not. model_share: of the time from the first
    pass to the last one, what the model actors computed. passes: forward batches of this run.
    stopped: why it ended early, or "".
    """

    photos: int
    styles: tuple[str, ...]
    images: int
    errors: tuple[dict[str, str], ...]
    output: Path
    seconds: float
    done_before: int = 0
    stopped: str = ""
    model_seconds: float = 0.0
    model_share: float = 0.0
    passes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return len(self.errors)

    @property
    def done_now(self) -> int:
        return self.images - self.done_before

    def to_dict(self) -> dict[str, Any]:
        """For JSON; at most LISTED_ERRORS errors one by one."""
        return {
            "photos": self.photos,
            "styles": list(self.styles),
            "images": self.images,
            "done_before": self.done_before,
            "failed": self.failed,
            "stopped": self.stopped,
            "errors": list(self.errors[:LISTED_ERRORS]),
            "reasons": self.reasons,
            "output": str(self.output),
            "seconds": round(self.seconds, 2),
            "images_a_second": round(self.done_now / max(self.seconds, 1e-9), 3),
            "model_seconds": round(self.model_seconds, 2),
            "model_share": round(self.model_share, 3),
            "passes": self.passes,
        }

    def _repr_html_(self) -> str:
        facts = {
            "photos": self.photos,
            "styles": ", ".join(self.styles),
            "images": f"{self.images} ({self.done_before} by earlier runs)",
            "failed": self.failed,
            "seconds": f"{self.seconds:.1f}",
            "model busy": f"{self.model_share:.0%}",
            "output": str(self.output),
        }
        if self.stopped:
            facts["stopped"] = self.stopped
        facts |= {f"error: {reason}": count for reason, count in list(self.reasons.items())[:10]}
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(str(k))}</th>"
            f"<td style='text-align:left'>{html.escape(str(v))}</td></tr>"
            for k, v in facts.items()
        )
        return f"<table>{rows}</table>"
