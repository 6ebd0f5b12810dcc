"""HTML reports: one base template and one style sheet, each report a single file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_report(
    package: str, template: str, *, filters: Mapping[str, Callable[..., Any]], **context: Any
) -> str:
    """Render a template of a package's folder ``templates``, which may extend ``base.html.j2``.

    Values are escaped. filters: functions that the template calls. ``title`` and ``stats``, rows of
    (name, value, alarm), are those of the base template.
    """
    environment = _environment(package)
    environment.filters |= filters
    return environment.get_template(template).render(**context)


@lru_cache(maxsize=8)
def _environment(package: str) -> Environment:
    shared = PackageLoader(__name__, "templates")
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
