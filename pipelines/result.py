"""The result of a corpus job, as a Python value, JSON and an HTML table."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"
CONTACT = "contact.html"
# Most errors in summary.json; errors.parquet has all.
MAX_LISTED_ERRORS = 1000


@dataclass(frozen=True)
class StylizeResult:
    """The result of a corpus job after a run. Notebooks render it as a table.

    photos: photos of the input. styles: references with versions. images: outputs written by all
    runs. errors: id, path, style, stage and reason of each failed output. output: the output
    folder, or its URI. done_before: outputs written by earlier runs. stopped: why the run ended
    early, or "".
    reasons: number of errors by "stage: reason", most frequent first. left_out: files of the input
    that are not read, by kind, most frequent first. shortened_names: outputs whose file name would
    be too long, and is shortened with a hash. changes: of the input since the run before, see
    ``pipelines.job_revision.InputChanges``; empty where it is the same. estimate: of a call that
    only estimates, see ``pipelines.estimate.Estimate``; else empty.
    Of this run: seconds; model_seconds: compute time, summed over the model actors; model_share:
    fraction in [0, 1] of the actors' time, between first and last batch, spent computing; passes:
    forward batches.
    """

    photos: int
    styles: tuple[str, ...]
    images: int
    errors: tuple[dict[str, str], ...]
    output: Path | str
    seconds: float
    done_before: int = 0
    stopped: str = ""
    model_seconds: float = 0.0
    model_share: float = 0.0
    passes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    shortened_names: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of failed outputs."""
        return len(self.errors)

    @property
    def done_now(self) -> int:
        """Outputs written by this run."""
        return self.images - self.done_before

    def to_dict(self) -> dict[str, Any]:
        """The content of summary.json, with at most MAX_LISTED_ERRORS errors."""
        return {
            "photos": self.photos,
            "styles": list(self.styles),
            "images": self.images,
            "done_before": self.done_before,
            "failed": self.failed,
            "stopped": self.stopped,
            "errors": list(self.errors[:MAX_LISTED_ERRORS]),
            "reasons": self.reasons,
            "left_out": self.left_out,
            "shortened_names": self.shortened_names,
            "changes": self.changes,
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
        if self.left_out:
            facts["left out"] = ", ".join(f"{kind} {n}" for kind, n in self.left_out.items())
        if self.stopped:
            facts["stopped"] = self.stopped
        facts |= {f"error: {reason}": count for reason, count in list(self.reasons.items())[:10]}
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(str(k))}</th>"
            f"<td style='text-align:left'>{html.escape(str(v))}</td></tr>"
            for k, v in facts.items()
        )
        return f"<table>{rows}</table>"
