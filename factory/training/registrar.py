"""Registers a trained style as a version in the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from factory.core.disk import find_disk_full
from factory.core.failures import describe_failure
from factory.core.work_folder import WorkFolder
from factory.methods import LoadedBase
from factory.registry import CANDIDATE, CHAMPION, GATE_TAG, PREVIEWS_TAG, Registry
from factory.registry.bundles import check_finite
from factory.registry.gate import Condition, gate_failures
from factory.registry.writing import BegunRun
from factory.reports.results import StyleResult
from factory.training.style_worker import CHECKPOINT, PREVIEWS, RESULT, StyleTask


@dataclass(frozen=True)
class Registrar:
    """Registers trained styles. previews_key: hash of the photos that the previews show."""

    registry: Registry
    base: LoadedBase
    gate: tuple[Condition, ...]
    previews_key: str
    report: Callable[[str], None]

    def register(self, task: StyleTask, run: BegunRun | None = None) -> StyleResult:
        """Check a trained style's bundle and register it. run: begun with the training.

        Any error but a full disk becomes a failed result of this style. Raises DiskFullError.
        """
        work = WorkFolder.at(task.folder)
        folder = work.path
        try:
            work.fetch(skip=[CHECKPOINT])
            trained = json.loads((folder / RESULT).read_text())
            check_finite(folder / "style", self.base)
            missed = gate_failures(self.gate, trained["metrics"])
            tags = {
                "base_name": self.base.name,
                "licence": task.licence,
                "tags": ",".join(task.tags),
                PREVIEWS_TAG: self.previews_key,
            }
            version = self.registry.register(
                task.id,
                folder / "style",
                fingerprint=task.fingerprint,
                base=self.base.fingerprint,
                params=task.settings.to_dict(),
                history=trained["history"],
                metrics=trained["metrics"],
                tags=tags | ({GATE_TAG: "; ".join(missed)} if missed else {}),
                previews=folder / PREVIEWS,
                alias=CANDIDATE if missed else CHAMPION,
                run=run,
            )
        except Exception as e:
            if (full := find_disk_full(e, self.registry.home.path)) is not None:
                raise full from e
            reason = describe_failure(e)
            self.report(f"{task.id}: not registered: {reason}")
            return StyleResult(task.id, "failed", reason=reason, kind="registry")
        finally:
            work.drop_local()
        work.delete()
        alias = f"candidate ({'; '.join(missed)})" if missed else CHAMPION
        self.report(f"{task.id}: registered as version {version.version}, {alias}")
        return StyleResult(
            task.id,
            "registered",
            version.version,
            seconds=round(trained["seconds"], 2),
            metrics=trained["metrics"],
            alias=CANDIDATE if missed else CHAMPION,
            gate=missed,
        )
