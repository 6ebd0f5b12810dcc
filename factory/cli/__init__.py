"""The command line: `style-factory`.

Results go to standard output (with --json as one JSON document), progress and errors to standard
error. Exit codes: 0 for success, 1 where part of the work failed, 2 for a mistake in the call or
the environment, 130 after Ctrl-C or SIGTERM. Commands import their modules when they run, so that
help and shell completion are fast.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import NoReturn

PROGRAM = "style-factory"
FAILED, MISTAKE, INTERRUPTED = 1, 2, 130
# Errors of a path that the user has named, such as a home or an output.
UNUSABLE_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO),
)


def run() -> NoReturn:
    """Run ``main``, shut Ray down, and exit with the command's code."""
    from factory.cli.signals import SignalHandler

    signals = SignalHandler()
    signals.install()
    # A thread of a stopped job that still calls Ray must not start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    code = main()
    # Ray prints messages about lost nodes to standard output, where the result is complete.
    with contextlib.redirect_stdout(sys.stderr):
        signals.clean_up()
        if (cluster := sys.modules.get("factory.core.ray_cluster")) is not None:
            cluster.stop_ray()
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. User errors print no traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    try:
        code = _run_command(arguments, as_json)
    except KeyboardInterrupt:
        code = INTERRUPTED
    # Typer, too, makes this code of a KeyboardInterrupt.
    if code == INTERRUPTED:
        from factory.cli.output import print_error

        print_error("stopped; to continue, run the same command again", as_json)
    return code


def _run_command(arguments: list[str], as_json: bool) -> int:
    import typer

    from factory.cli.app import app
    from factory.cli.calls import call_error
    from factory.cli.output import print_error
    from osasis.errors import UserError
    from osasis.storage import DiskFullError

    app.rich_markup_mode = "rich" if sys.stdout.isatty() else None
    command = typer.main.get_command(app)
    try:
        return command.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except typer.TyperException as e:
        print_error(call_error(e), as_json)
        return MISTAKE
    except UserError as e:
        print_error(e, as_json)
        return MISTAKE
    except DiskFullError as e:
        print_error(f"{e}; make room and run the same command again", as_json)
        return FAILED
    except Exception as e:
        if isinstance(e, OSError) and e.errno in UNUSABLE_PATH and e.filename:
            reason = os.strerror(e.errno).lower()
            print_error(f"{e.filename}: {reason}; give a place that this user may use", as_json)
            return MISTAKE
        if not _is_environmental(e):
            raise
        from factory.core.failures import describe_failure

        print_error(describe_failure(e), as_json)
        return FAILED


def _is_environmental(error: Exception) -> bool:
    """Whether an error comes from the disk, the network, MLflow or Ray rather than this code."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("mlflow.", "ray."))
