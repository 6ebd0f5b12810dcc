"""`style-factory serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factory.cli.options import (
    BaseOption,
    HomeOption,
    JsonOption,
    assignments,
    find_home,
    option,
)
from factory.cli.output import print_fields, print_progress, print_result
from osasis.errors import UserError

if TYPE_CHECKING:
    from serving.config import ServeConfig

NETWORK, SETTINGS, KEYS = "Network", "Settings", "API keys"


def serve(
    host: Annotated[str, option(NETWORK, "Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option(NETWORK, "Port to listen on.", min=1, max=65535)] = 8000,
    open_: Annotated[
        bool, option(NETWORK, "Open the page in a browser once it is served.", "--open")
    ] = False,
    base: BaseOption = None,
    replicas: Annotated[int | None, option(SETTINGS, "Number of engines (default: 1).")] = None,
    config: Annotated[
        Path | None, option(SETTINGS, "YAML or JSON file of the server's settings.", metavar="FILE")
    ] = None,
    set_: Annotated[
        list[str] | None,
        option(
            SETTINGS,
            "A setting of the server, such as queue=32 or limits.styles=2; may be given "
            "several times.",
            "--set",
            metavar="NAME=VALUE",
        ),
    ] = None,
    check: Annotated[
        bool,
        option(SETTINGS, "Check settings, base and styles, and exit without serving.", "--check"),
    ] = False,
    keys: Annotated[
        str | None,
        option(KEYS, "File of API keys; without it every client is served.", metavar="FILE"),
    ] = None,
    new_key: Annotated[
        str | None,
        option(
            KEYS,
            "Add a key of this name to the file of --keys, print the key, and exit.",
            metavar="NAME",
        ),
    ] = None,
    per_minute: Annotated[
        int | None,
        option(KEYS, "With --new-key: requests per minute of the key (default: 600).", min=1),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve registered styles over HTTP."""
    if new_key is not None:
        _add_key(keys, new_key, per_minute, as_json)
        return
    if per_minute is not None:
        raise UserError("--per-minute is the limit of a new key; give --new-key NAME, too")
    from serving import launch

    given = {"base": base, "replicas": replicas, "keys": keys}
    settings = _settings(home, config, assignments(set_, "--set"), given)
    if check:
        print_fields(launch.check(settings, host, port), as_json)
        return

    def ready(facts: dict[str, Any]) -> None:
        line = f"serving {facts['styles']} style(s) at {facts['url']}"
        print_result(json.dumps(facts) if as_json else line, flush=True)
        if open_:
            import webbrowser

            webbrowser.open(launch.page_url(facts))

    launch.run(settings, host, port, ready, print_progress)


def _settings(
    home: str | None, file: Path | None, assigned: dict[str, Any], given: dict[str, Any]
) -> ServeConfig:
    """Merge settings, lowest precedence first: file, ``--set``, other options."""
    from serving.config import ServeConfig, load_config

    data = load_config(file) if file else {}
    for name, value in assigned.items():
        part, _, rest = name.partition(".")
        if rest:
            data[part] = {**(data.get(part) or {}), rest: value}
        else:
            data[name] = value
    place = find_home(home or data.get("home"))
    data |= {k: v for k, v in given.items() if v is not None}
    data["home"] = place.location
    data.setdefault("log", str(place.path / "logs" / "serve.jsonl"))
    return ServeConfig.parse(data, str(file) if file else "serve")


def _add_key(keys: str | None, name: str, per_minute: int | None, as_json: bool) -> None:
    from serving.auth import PER_MINUTE, new_key

    if not keys:
        raise UserError("--new-key needs --keys FILE, where the key's hash is saved")
    key = new_key(Path(keys), name, per_minute or PER_MINUTE)
    print_progress("store this key now: only its hash is saved")
    print_fields({"name": name, "key": key}, as_json)
