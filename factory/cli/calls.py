"""Command and group classes: report all bad options at once, and print plain grouped help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from factory.cli.output import results_only_on_stdout
from osasis.errors import UserError, did_you_mean


class CallError(UserError):
    """Invalid arguments. problems: ``osasis.validation.Problem``, whose fields are options."""

    def __init__(self, problems: Iterable[Any]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class Command(TyperCommand):
    """A command that reports all bad options at once and prints only its result to stdout."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
            problems = []
            for param in self.get_params(ctx):
                try:
                    value, _ = param.handle_parse_result(ctx, given, rest)
                    if isinstance(value, Path) and "://" in str(given.get(param.name)):
                        problems.append(_uri_problem(param, str(given[param.name])))
                except typer.BadParameter as e:
                    problems.append(_parameter_problem(param, e, ctx.command_path))
            if problems:
                raise CallError(problems)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        from factory.core.disk import disk_named
        from factory.core.home import Home

        # An error of sqlite names no folder; most commands write to the home.
        with results_only_on_stdout(), disk_named(lambda: Home.find(ctx.params.get("home")).path):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(formatter, _option_panels(self, ctx))


class Group(TyperGroup):
    """A command group whose plain help shows the same panels as the coloured help."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from osasis.validation import Problem

            message = f"unknown command {args[0]!r}{did_you_mean(args[0], self.commands)}"
            names = "one of " + ", ".join(self.commands)
            raise CallError([Problem("COMMAND", args[0], message, names)])
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels = _option_panels(self, ctx)
        width = formatter.width - 6 - max(map(len, self.commands))
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name, command.get_short_help_str(width)))
        _write_panels(formatter, panels)


def _option_panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Rows of (option, help) by help panel."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if (row := param.get_help_record(ctx)) is not None:
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            panels.setdefault(param.rich_help_panel or usual, []).append(row)
    return panels


def _write_panels(formatter: Any, panels: dict[str, list[tuple[str, str]]]) -> None:
    for title, rows in panels.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def call_error(error: typer.TyperException) -> CallError:
    """Convert an error of Typer to a ``CallError``."""
    from osasis.validation import Problem

    context: Any = getattr(error, "ctx", None)
    option: str = getattr(error, "option_name", "")
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    if context is None:
        return CallError([Problem(option, None, text)])
    command = context.command
    if option and hasattr(error, "possibilities"):
        known = [name for p in command.get_params(context) for name in p.opts]
        message = f"unknown option {option}{did_you_mean(option, known)}"
    elif isinstance(command, TyperGroup):
        message = f"COMMAND is missing; choose one of {', '.join(command.commands)}"
    else:
        message = text
    return CallError([Problem(option, None, f"{message}; see `{context.command_path} --help`")])


def _uri_problem(param: Any, value: str) -> Any:
    """The problem of a URI where a path is needed."""
    from factory.core.uris import redact
    from osasis.validation import Problem

    name = param.opts[0] if param.param_type_name == "option" else param.name.upper()
    shown = redact(value)
    return Problem(name, shown, f"{name} is {shown}; it must be a path, not a URI")


def _parameter_problem(param: Any, error: typer.BadParameter, command: str) -> Any:
    """The problem of an invalid or missing option or argument."""
    from pydantic import Field, ValidationError

    from osasis.validation import Problem, allowed

    name = param.opts[0] if param.param_type_name == "option" else param.name.upper()
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return Problem(name, None, f"{name} is missing; see `{command} --help`")
    (found,) = cause.errors(include_url=False)[:1]
    value, descriptor = found["input"], param.type_descriptor
    shown = value if found["type"] in ("greater_than_equal", "less_than_equal") else repr(value)
    near = did_you_mean(str(value), map(str, descriptor.choices)) if descriptor.choices else ""
    allowed_values = allowed(Annotated[descriptor.annotation, Field(ge=param.min, le=param.max)])
    return Problem(name, value, f"{name} is {shown}{near}", allowed_values)
