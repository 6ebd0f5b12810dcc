"""Progress of a base's training: the workers' events, on the terminal and in MLflow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Param

from factory.core.home import Home
from factory.registry import Registry
from osasis.images.photo_set import Report
from osasis.pretraining.settings import PretrainSettings
from osasis.pretraining.train_base import LossPoint
from osasis.storage import write_json

EXPERIMENT = "style-factory-bases"
EVENTS, SAMPLES, RUN_ID = "events.jsonl", "samples", "mlflow-run.json"
REPORT_SECONDS = 10


class ProgressLog:
    """Copies the leading worker's events to the terminal and to an MLflow run."""

    def __init__(
        self, home: Home, name: str, folder: Path, settings: PretrainSettings, report: Report
    ) -> None:
        self.folder, self.report = folder, report
        self.registry = Registry(home)
        self.client = self.registry.client
        self.run_id = self._open_run(name, settings)
        path = folder / EVENTS
        # A resumed run continues its MLflow run, which has the earlier events.
        self.offset = path.stat().st_size if path.is_file() else 0
        self.reported = 0.0

    def _open_run(self, name: str, settings: PretrainSettings) -> str:
        path = self.folder / RUN_ID
        if path.is_file():
            run_id = str(json.loads(path.read_text())["run"])
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = self.registry.experiment_id(EXPERIMENT)
        run_id = self.client.create_run(experiment, run_name=name).info.run_id
        params = [Param(k, str(v)) for k, v in settings.to_dict().items()]
        self.client.log_batch(run_id, params=params)
        write_json(path, {"run": run_id})
        return run_id

    def catch_up(self) -> None:
        """Copy the events since the last call."""
        path = self.folder / EVENTS
        if not path.is_file():
            return
        with path.open("rb") as f:
            f.seek(self.offset)
            data = f.read()
        # An incomplete last line is read by the next call.
        complete = data.rfind(b"\n") + 1
        self.offset += complete
        for line in data[:complete].splitlines():
            self._copy(json.loads(line))

    def _copy(self, event: dict[str, Any]) -> None:
        if "picture" in event:
            picture = self.folder / SAMPLES / event["picture"]
            self.client.log_artifact(self.run_id, str(picture), SAMPLES)
            return
        point = LossPoint(**event)
        i = point.iteration
        self.client.log_metric(self.run_id, f"{point.stage}.loss", point.loss, step=i)
        if i == point.of or time.monotonic() - self.reported > REPORT_SECONDS:
            self.reported = time.monotonic()
            left = (point.of - i) * point.seconds
            self.report(f"{point}, {left / 60:.0f} min left")

    def close(self, status: str) -> None:
        """End the MLflow run. status: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)
