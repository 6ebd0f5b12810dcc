"""`style-factory slots ...`."""

from __future__ import annotations

import contextlib
import json
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
    slots = add_slots(folder, count)
    print_fields({"job": folder.rpartition("/")[2], "slots": slots}, as_json)


@app.command(cls=Command)
def show(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of every style of a run."""
    from factory.core.stores import open_store
    from factory.training.lease_queue import QUEUE
    from factory.training.slots import requested_slots

    folder = _job_folder(find_home(home), job)
    states = {}
    with contextlib.suppress(FileNotFoundError):
        states = json.loads(open_store(folder).read(QUEUE))
    document = {
        "job": folder.rpartition("/")[2],
        "slots": requested_slots(folder) or 0,
        "styles": {k: s["state"] for k, s in states.items()},
    }
    print_fields(document, as_json)


def _job_folder(home: Home, name: str) -> str:
    """Path or URI of the folder of a training job. Raises UserError where no job has the name."""
    from factory.core.stores import open_store

    jobs = home.shared(home.jobs)
    found = {n.partition("/")[0] for n in open_store(jobs).list()}
    names = sorted(n for n in found if n.startswith("train-"))
    if not names:
        raise UserError(f"no job in {jobs}; start one with `style-factory train CATALOG`")
    if name == "latest":
        return f"{jobs}/{names[-1]}"
    if name not in names:
        hint = did_you_mean(name, names) or f" (latest: {names[-1]})"
        raise UserError(f"unknown job {name!r}{hint}")
    return f"{jobs}/{name}"
