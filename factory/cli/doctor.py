"""`style-factory doctor`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from factory.cli.options import CLUSTER, HomeOption, JsonOption, find_home, option
from factory.cli.output import print_document, print_result


def doctor(
    address: Annotated[
        str | None,
        option(CLUSTER, "Ray cluster to check (default: RAY_ADDRESS, else this machine)."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check Ray, its nodes, the home, the registry and the bases, and say what to do.

    The exit code is 1 where something would stop a run.
    """
    from factory.doctor import examine

    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    findings = []
    for finding in examine(find_home(home)):
        findings.append(finding)
        if not as_json:
            print_result(str(finding))
    errors = sum(f.status == "error" for f in findings)
    if as_json:
        document = {"findings": [f.to_dict() for f in findings], "errors": errors}
        print_document(document, "", as_json)
    if errors:
        raise typer.Exit(1)
