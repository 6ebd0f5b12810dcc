"""Claims: jobs that share a folder agree on which job trains a style, builds a bank or owns a job.

A claim is a lease: a JSON file or object that is created only where it does not exist, and that
names its holder. While a job lives, it touches its heartbeat file. A claim whose holder has given
no sign of life for ``LEASE_SECONDS`` may be taken over. The storage's own clock measures this time.
Process ids, host names and file locks cannot prove that a holder is dead: the holder may run in
another container, or on another machine that shares the storage. A file lock that is held proves
that the holder lives, even if its heartbeat is late; object stores have no locks.

Another job may have taken over the claim of a silent holder. Therefore a job calls ``held`` or
``check_claim`` before it writes what the claim protects.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from factory.core.object_store import StoreError
from factory.core.stores import Store, open_store
from osasis.errors import UserError
from osasis.storage import sha256_text

HEARTBEAT_SECONDS = 2.0
LEASE_SECONDS = 15.0
# How often ``acquire_from_dead`` looks, and how long a claim may lack its content.
POLL_SECONDS, CONTENT_SECONDS = 0.5, 1.0
SUFFIX = ".claim"
# Of a claim that names no holder.
UNKNOWN = "unknown"


class SupersededError(Exception):
    """Another job has taken over what this job held."""


@dataclass(frozen=True)
class Holder:
    """The job that holds a claim. token: unique to one run of the job."""

    job: str
    token: str


class Claims:
    """The claims of one job. A daemon thread touches the job's heartbeat file until ``close``."""

    def __init__(self, folder: str | os.PathLike[str], job: str) -> None:
        """folder: path or URI, see ``open_store``. Raises DiskFullError, StoreError, UserError."""
        self.store = open_store(folder)
        self.holder = Holder(job, uuid.uuid4().hex)
        self._closed = threading.Event()
        self._heartbeat = _heartbeat_of(self.holder)
        self._taken: set[str] = set()
        self.store.create(self._heartbeat, b"")
        if self.store.create(self._heartbeat, b""):
            raise UserError(
                f"{self.store.location}: this store has no conditional creation (If-None-Match), "
                "so that jobs cannot tell which of them may write; choose another store"
            )
        self.store.hold(self._heartbeat)
        threading.Thread(target=self._touch_heartbeat, daemon=True).start()

    def _touch_heartbeat(self) -> None:
        while not self._closed.wait(max(HEARTBEAT_SECONDS, self.store.look_seconds)):
            with contextlib.suppress(OSError):
                self.store.touch(self._heartbeat)

    def acquire(self, name: str) -> Holder | None:
        """Claim a name. Returns None on success, else the job that holds the claim."""
        claim = f"{name}{SUFFIX}"
        holder = self._take(claim)
        if holder is None:
            self._taken.add(claim)
        return holder

    def acquire_from_dead(self, name: str, on_wait: Callable[[Holder], None]) -> Holder | None:
        """Claim a name, or wait until its silent holder counts as dead.

        Returns None on success, else the holder as soon as it shows that it lives. on_wait: called
        once where there is something to wait for.
        """
        first: tuple[Holder, float] | None = None
        while (holder := self.acquire(name)) is not None:
            if self._lock_is_held(holder):
                return holder
            beat = self._last_beat(holder, f"{name}{SUFFIX}")
            if first is None:
                first = holder, beat
                on_wait(holder)
            if first != (holder, beat):
                return holder
            time.sleep(max(POLL_SECONDS, self.store.look_seconds))
        return None

    def held(self, name: str) -> bool:
        """Whether this job still holds the claim."""
        return _read(self.store, f"{name}{SUFFIX}") == self.holder

    def release(self, name: str) -> None:
        """Give a claim back; a claim that another job has taken over stays as it is."""
        if self.held(name):
            self.store.delete([f"{name}{SUFFIX}"])

    def location(self, name: str) -> str:
        """The path or URI of a claim's file, for ``read_claim``."""
        return f"{self.store.location}/{name}{SUFFIX}"

    def close(self) -> None:
        """End the heartbeat and give back every claim of this job."""
        self._closed.set()
        with contextlib.suppress(StoreError):  # the leases end by themselves
            mine = [claim for claim in self._taken if _read(self.store, claim) == self.holder]
            self.store.delete([*mine, self._heartbeat])
        self.store.let_go(self._heartbeat)

    def _take(self, claim: str) -> Holder | None:
        """Make a claim's file this job's. Returns None on success, else the holder."""
        while not self.store.create(claim, _text(self.holder)):
            holder = _read_complete(self.store, claim)
            if holder == self.holder:
                return None
            if holder is None and self.store.changed(claim) is None:  # given back meanwhile
                continue
            holder = holder or Holder(UNKNOWN, "")
            if self._is_alive(holder, claim):
                return holder
            if self._take_over(claim, holder):
                return None
        return None

    def _take_over(self, claim: str, dead: Holder) -> bool:
        """Replace a dead holder's claim. Of several jobs one succeeds: it creates the marker.

        The marker belongs to the token of the dead holder, and is a claim like any other, so that
        a job that dies here blocks nobody for long.
        """
        marker = f"{sha256_text(claim + dead.token)[:32]}.takeover"
        if self._take(marker) is not None:
            time.sleep(POLL_SECONDS)
            return False
        try:
            # Another job may have replaced the claim before this one created the marker.
            found = _read(self.store, claim) or Holder(UNKNOWN, "")
            if found != dead or self.store.changed(claim) is None:
                return False
            self.store.write(claim, _text(self.holder))
            return True
        finally:
            self.store.delete([marker])

    def _is_alive(self, holder: Holder, claim: str) -> bool:
        if self._lock_is_held(holder):
            return True
        # By the storage's clock, which dates this job's last beat: this machine's may be another.
        now = self.store.changed(self._heartbeat) or 0.0
        return now - self._last_beat(holder, claim) < LEASE_SECONDS

    def _last_beat(self, holder: Holder, claim: str) -> float:
        """When a holder last gave a sign of life, by the storage's clock."""
        return max(self.store.changed(name) or 0.0 for name in (claim, _heartbeat_of(holder)))

    def _lock_is_held(self, holder: Holder) -> bool:
        return self.store.is_held(_heartbeat_of(holder))


def _heartbeat_of(holder: Holder) -> str:
    return f"{holder.job}.alive"


def _text(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _read(store: Store, claim: str) -> Holder | None:
    """The holder that a claim names; None where it is missing or broken. Raises StoreError."""
    try:
        return Holder(**json.loads(store.read(claim)))
    except StoreError:
        raise
    except (OSError, ValueError, TypeError):
        return None


def read_claim(location: str) -> Holder | None:
    """The holder that a claim's file names; None where the file is missing or broken."""
    folder, _, name = location.rpartition("/")
    return _read(open_store(folder), name)


def check_claim(location: str, job: str) -> None:
    """Raises SupersededError where a claim is no longer this job's. location: path or URI."""
    holder = read_claim(location)
    if holder is not None and holder.job == job:
        return
    folder, _, name = location.rpartition("/")
    if holder is not None:
        raise SupersededError(f"job {holder.job} has taken {name.removesuffix(SUFFIX)} over")
    if open_store(folder).changed(name) is None:
        raise SupersededError(f"the claim {location} is gone")


def _read_complete(store: Store, claim: str) -> Holder | None:
    """The holder of a claim; waits for the content of a file that is just being created."""
    deadline = time.monotonic() + CONTENT_SECONDS
    while (holder := _read(store, claim)) is None and time.monotonic() < deadline:
        if store.changed(claim) is None:
            break
        time.sleep(0.05)
    return holder
