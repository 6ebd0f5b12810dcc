"""`style-factory slots ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli.calls import Command, Group
from factory.cli.options import HomeOption, JsonOption, find_home
from factory.cli.output import print_fields
from osasis.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from factory.core.home import Home

app = typer.Typer(cls=Group, help="Show and add slots of a run that is training.")

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of the run (train-...), or latest.")
]


@app.command(cls=Command)
def add(
    job: JobArgument,
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1, help="Number of new slots.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add slots to a run that is training."""
    from factory.training.slots import add_slots

    folder = _job_folder(find_home(home), job)
    print_fields({"job": folder.name, "slots": add_slots(folder, count)}, as_json)


@app.command(cls=Command)
def show(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of every style of a run."""
    from factory.training.slots import SLOTS

    folder = _job_folder(find_home(home), job)
    queue, slots = folder / "queue.json", folder / SLOTS
    states = json.loads(queue.read_text()) if queue.is_file() else {}
    document = {
        "job": folder.name,
        "slots": json.loads(slots.read_text())["slots"] if slots.is_file() else 0,
        "styles": {k: s["state"] for k, s in states.items()},
    }
    print_fields(document, as_json)


def _job_folder(home: Home, name: str) -> Path:
    """The folder of a training job. Raises UserError where no job has the name."""
    names = sorted(p.name for p in home.jobs.glob("train-*") if p.is_dir())
    if not names:
        raise UserError(f"no job in {home.jobs}; start one with `style-factory train CATALOG`")
    if name == "latest":
        return home.jobs / names[-1]
    if name not in names:
        hint = did_you_mean(name, names) or f" (latest: {names[-1]})"
        raise UserError(f"unknown job {name!r}{hint}")
    return home.jobs / name
