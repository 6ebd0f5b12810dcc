"""The command line: `style-factory`.

Results go to standard output (with --json one JSON document), progress to standard error. The
exit code is 0 only where all that was asked is done; 1 where part of it failed; 2 for a mistake
in what was given. Heavy imports wait until a command needs them. One module a group of commands.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from factory.cli import base, catalog, inspect, serve, slots, styles, stylize, train
from factory.cli.output import fail, results_only_on_stdout
from osasis.errors import UserError

# The code of a program that Ctrl-C has ended.
INTERRUPTED = 130


def run() -> NoReturn:
    """The program: ``main``, and its exit code to the shell."""
    code = main()
    cluster = sys.modules.get("factory.core.ray_cluster")
    if cluster is not None and (cluster.is_own() or code == INTERRUPTED):
        # At once. A Ray of this process's own ends with it: taking it down in order, and all that
        # was imported, takes seconds more. Threads that still wait for slots would find Ray shut
        # down, and end the process with a code of their own.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. No traceback for a user's mistake."""
    args = _parser().parse_args(argv)
    with results_only_on_stdout():
        try:
            code = args.run(args)
        except UserError as e:
            code = fail(args, str(e), 2)
        except KeyboardInterrupt:
            code = fail(args, "stopped; the same command trains on where it can", INTERRUPTED)
        except Exception as e:
            if not _from_surroundings(e):
                raise
            from factory.core.failures import describe_failure

            code = fail(args, describe_failure(e), 1)
    return code


def _from_surroundings(error: Exception) -> bool:
    """Whether an error is the disk's, the network's, MLflow's or Ray's rather than ours."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("mlflow.", "ray."))


def _parser() -> argparse.ArgumentParser:
    from factory import __version__

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", help="state of this installation (default: ./.style-factory)")
    common.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser = argparse.ArgumentParser(
        prog="style-factory",
        description="One style image in, one registered style model out, for a whole catalog.",
    )
    parser.add_argument("--version", action="version", version=f"style-factory {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train.add(commands, common)
    catalog.add(commands, common)
    slots.add(commands, common)
    stylize.add(commands, common)
    inspect.add(commands, common)
    serve.add(commands, common)
    styles.add(commands, common)
    base.add(commands, common)
    train.add_text_edit(commands, common)
    return parser
