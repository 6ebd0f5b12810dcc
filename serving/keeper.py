"""What outlives a request, for all ingresses: photos by id, jobs, and who is alive."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from serving.caches import ByteLru

# A process that has not been heard of for so long is gone; its counters stay.
SILENCE = 15.0


@dataclass(frozen=True)
class KeptPhoto:
    """A photo at the base's size. fit: how it became a square. source: name of its file."""

    png: bytes
    fit: str
    source: str


@dataclass
class Job:
    """Long work. results: encoded images, in order."""

    id: str
    owner: str
    images: int
    media: str
    created: float
    state: str = "queued"
    message: str | None = None
    results: list[bytes] = field(default_factory=list)
    ingress: str = ""

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "images": self.images,
            "done": len(self.results),
            "message": self.message,
            "results": [f"/v1/jobs/{self.id}/images/{i}" for i in range(len(self.results))],
        }


class Keeper:
    """One for all. Its memory is bounded: bytes of photos, number and age of jobs."""

    def __init__(self, photos: int, jobs: int, job_age: float) -> None:
        self._photos: ByteLru[KeptPhoto] = ByteLru(photos, lambda kept: len(kept.png))
        self._jobs: dict[str, Job] = {}
        self._most, self._age = jobs, job_age
        self._alive: dict[str, tuple[float, dict[str, float]]] = {}
        self._gone: dict[str, float] = {}
        self._draining = False

    def put_photo(self, key: str, photo: KeptPhoto) -> None:
        self._photos.put(key, photo)

    def get_photo(self, key: str) -> KeptPhoto | None:
        return self._photos.get(key)

    def add_job(self, owner: str, images: int, media: str, ingress: str) -> str | None:
        """The new job's id; None where all places are taken by jobs that are not done."""
        self._forget()
        if len(self._jobs) >= self._most:
            ended = [j for j in self._jobs.values() if j.state in ("done", "failed")]
            if not ended:
                return None
            del self._jobs[min(ended, key=lambda j: j.created).id]
        job = Job(uuid.uuid4().hex, owner, images, media, time.monotonic(), ingress=ingress)
        self._jobs[job.id] = job
        return job.id

    def job_running(self, job_id: str) -> None:
        if job := self._jobs.get(job_id):
            job.state = "running"

    def job_result(self, job_id: str, image: bytes) -> None:
        if job := self._jobs.get(job_id):
            job.results.append(image)
            if len(job.results) == job.images:
                job.state = "done"

    def job_failed(self, job_id: str, message: str) -> None:
        if job := self._jobs.get(job_id):
            job.state, job.message = "failed", message

    def job(self, job_id: str, owner: str) -> dict[str, Any] | None:
        self._forget()
        job = self._jobs.get(job_id)
        return job.row() if job and job.owner == owner else None

    def job_image(self, job_id: str, owner: str, index: int) -> tuple[str, bytes] | None:
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner or not 0 <= index < len(job.results):
            return None
        return job.media, job.results[index]

    def _forget(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.state in ("queued", "running") and job.ingress not in self._living(now):
                job.state, job.message = "failed", "the process that ran it has gone; send it again"
            if now - job.created > self._age:
                del self._jobs[job.id]

    def _living(self, now: float) -> set[str]:
        return {k for k, (seen, _) in self._alive.items() if now - seen < SILENCE}

    def beat(self, source: str, samples: dict[str, float]) -> bool:
        """A process reports its counters; the answer is whether to drain."""
        now = time.monotonic()
        self._alive[source] = (now, samples)
        for other, (seen, last) in list(self._alive.items()):
            if now - seen > SILENCE:
                del self._alive[other]
                for key, value in last.items():
                    if "_total" in key or "_seconds" in key:  # counters never fall
                        self._gone[key] = self._gone.get(key, 0.0) + value
        return self._draining

    def drain(self) -> bool:
        """No new work from the ingresses' next beats on; whether all that was taken is done, to
        the last byte of every answer, as far as they have told."""
        self._draining = True
        ingresses = [s for _, s in self._alive.values() if "draining" in s]
        closed = bool(ingresses) and all(s["draining"] for s in ingresses)
        jobs = any(j.state in ("queued", "running") for j in self._jobs.values())
        return closed and not jobs and not any(s["open_requests"] for s in ingresses)

    def samples(self) -> list[dict[str, float]]:
        return [self._gone, *(s for _, s in self._alive.values())]
