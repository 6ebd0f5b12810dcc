"""A home directory for Ray, MLflow and torch where the user has none."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from osasis.errors import UserError


def ensure_user_home(folder: Path) -> None:
    """Point HOME to ``folder`` where it is missing or not writable, as in many containers.

    Libraries keep tokens, settings and caches below HOME, and some ask for the user's name, which
    an arbitrary user id does not have. Raises UserError where the folder cannot be made.
    """
    if not _is_writable(found := os.environ.get("HOME")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            shown = "not set" if found is None else f"{found}, which is not writable"
            raise UserError(
                f"HOME is {shown}, and {folder} cannot be made in its place "
                f"({(e.strerror or str(e)).lower()}); set HOME or --home to a writable folder"
            ) from None
        os.environ["HOME"] = str(folder)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", f"uid-{os.getuid()}")


def _is_writable(home: str | None) -> bool:
    """Whether HOME, or the user database's home directory where HOME is not set, is usable."""
    if home is None:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return False
    return Path(home).is_dir() and os.access(home, os.W_OK | os.X_OK)
