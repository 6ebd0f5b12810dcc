"""Results of a training run, for programs, terminals and notebooks."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

STATES = ("registered", "skipped", "failed")


@dataclass(frozen=True)
class StyleResult:
    """Result of one style. state: one of STATES; skipped is registered by an earlier run.

    alias: champion, or candidate if the style missed a gate condition. gate: the missed
    conditions. kind: kind of the failure.
    """

    id: str
    state: str
    version: int | None = None
    reason: str | None = None
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    alias: str | None = None
    gate: tuple[str, ...] = ()
    kind: str | None = None
    attempts: int = 1

    @property
    def note(self) -> str:
        """Version or failure, for tables."""
        if self.state == "failed":
            return self.reason or "no reason was recorded"
        note = f"version {self.version}"
        return note + (f", candidate: {'; '.join(self.gate)}" if self.gate else "")


@dataclass(frozen=True)
class BankResult:
    """A content bank that a run used. build_seconds: None for a bank shipped with a base."""

    contents: int
    build_seconds: float | None

    def __str__(self) -> str:
        if self.build_seconds is None:
            return f"content bank: {self.contents} contents, shipped with the base"
        return f"content bank: {self.contents} contents, built in {self.build_seconds:.1f} s"


@dataclass(frozen=True)
class TrainResult:
    """Result of ``train``. gallery: the HTML report. folder: the job's folder on this machine.
    location: path or URI of the job's folder for other machines. estimate: of a call that only
    estimates, see ``factory.training.estimate.TrainEstimate``; else empty."""

    styles: tuple[StyleResult, ...]
    gallery: Path
    folder: Path
    seconds: float
    banks: tuple[BankResult, ...] = ()
    estimate: dict[str, Any] = field(default_factory=dict)
    location: str = ""

    @property
    def gallery_location(self) -> str:
        """Path or URI of the HTML report for other machines."""
        return f"{self.location}/{self.gallery.name}" if self.location else str(self.gallery)

    @property
    def failed(self) -> tuple[StyleResult, ...]:
        return tuple(s for s in self.styles if s.state == "failed")

    def count(self, state: str) -> int:
        """Number of styles with a state."""
        return sum(s.state == state for s in self.styles)

    def to_dict(self) -> dict[str, Any]:
        return {
            "styles": [asdict(s) for s in self.styles],
            "gallery": self.gallery_location,
            "folder": self.location or str(self.folder),
            "job": self.folder.name,
            "seconds": round(self.seconds, 2),
            "content_banks": [asdict(b) for b in self.banks],
        }

    def summary(self) -> str:
        """The table that is printed at the end of a run."""
        width = max([len(s.id) for s in self.styles] + [5])
        lines = [
            f"{s.id:{width}}  {s.state:10}  {s.note}"
            + (f" in {s.seconds:.0f} s" if s.seconds is not None else "")
            + (f" after {s.attempts} attempts" if s.attempts > 1 and s.state != "failed" else "")
            for s in self.styles
        ]
        lines += [self._counts(), *map(str, self.banks), f"gallery: {self.gallery_location}"]
        return "\n".join(lines)

    def _counts(self) -> str:
        return ", ".join(f"{self.count(s)} {s}" for s in STATES)

    def _repr_html_(self) -> str:
        """HTML table for notebooks: one row per style, with its first previews."""
        rows = "".join(self._row(s) for s in self.styles)
        return (
            f"<p>{self._counts()} in {self.seconds:.0f} s &middot; gallery: "
            f"<code>{escape(self.gallery_location)}</code></p><table><thead><tr><th>style</th><th></th>"
            f"<th>state</th><th></th><th>metrics</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    def _row(self, style: StyleResult) -> str:
        thumbnail = self.folder / "thumbnails" / f"{style.id}.webp"
        image = ""
        if thumbnail.is_file():
            data = base64.b64encode(thumbnail.read_bytes()).decode()
            image = f'<img alt="{escape(style.id)}" src="data:image/webp;base64,{data}">'
        metrics = ", ".join(f"{k} {v:.3g}" for k, v in style.metrics.items())
        cells = (escape(style.id), image, escape(style.state), escape(style.note), escape(metrics))
        return "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
