"""State shared by all ingress processes: photos by id, jobs, and each process's last heartbeat."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from serving.caches import ByteLru
from serving.schemas import JobAnswer, JobState
from serving.submissions import TaskStatus

# Seconds without a heartbeat after which a process counts as dead.
HEARTBEAT_TIMEOUT = 15.0


@dataclass(frozen=True)
class StoredPhoto:
    """A photo as sent. data: content of its file. source: name of its file."""

    data: bytes
    source: str


@dataclass
class Job:
    """A queued batch of images.

    owner: name of the API key. created: monotonic seconds. ingress: the process that runs the job.
    results: PNG images, in order. status: of the photos that are computed now.
    """

    id: str
    owner: str
    images: int
    created: float
    ingress: str
    state: JobState = "queued"
    message: str | None = None
    results: list[bytes] = field(default_factory=list)
    status: TaskStatus = field(default_factory=TaskStatus)

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def answer(self) -> JobAnswer:
        paths = [f"/v1/jobs/{self.id}/images/{i}" for i in range(len(self.results))]
        return JobAnswer(id=self.id, state=self.state, images=self.images, done=len(paths),
                         message=self.message, results=paths, stage=self.status.stage,
                         step=self.status.step, steps=self.status.steps)  # fmt: skip


class SharedState:
    """Photos, jobs and counters in bounded memory.

    photos: bytes of photos kept. jobs: number of jobs kept. job_bytes: bytes of their images.
    job_age: seconds that a job is kept.
    """

    def __init__(self, photos: int, jobs: int, job_bytes: int, job_age: float) -> None:
        self._photos: ByteLru[StoredPhoto] = ByteLru(photos, lambda photo: len(photo.data))
        self._jobs: dict[str, Job] = {}
        self._max_jobs, self._max_bytes, self._max_age = jobs, job_bytes, job_age
        # By process: time of the last heartbeat and the counters in it.
        self._processes: dict[str, tuple[float, dict[str, float]]] = {}
        self._dead_counters: dict[str, float] = {}
        self._draining = False

    def put_photo(self, owner: str, key: str, photo: StoredPhoto) -> None:
        self._photos.put(f"{owner}/{key}", photo)

    def get_photo(self, owner: str, key: str) -> StoredPhoto | None:
        """A photo of an API key's owner, by its id."""
        return self._photos.get(f"{owner}/{key}")

    def add_job(self, owner: str, images: int, ingress: str) -> str | None:
        """Add a job and return its id; None while ``jobs`` unfinished jobs are kept."""
        self._expire_jobs()
        if len(self._jobs) >= self._max_jobs and not self._drop_ended():
            return None
        job = Job(uuid.uuid4().hex, owner, images, time.monotonic(), ingress)
        self._jobs[job.id] = job
        return job.id

    def job_running(self, job_id: str, status: TaskStatus) -> bool:
        """Record that a job runs, and how far its current photos are. Returns whether the job is
        still wanted."""
        job = self._jobs.get(job_id)
        if job is None or job.ended:
            return False
        job.state, job.status = "running", status
        return True

    def cancel_job(self, job_id: str, owner: str) -> JobAnswer | None:
        """Cancel a job; its finished images stay. A job that has ended is not changed."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            return None
        if not job.ended:
            job.state = "cancelled"
        return job.answer()

    def _drop_ended(self) -> bool:
        """Drop the oldest ended job. Returns whether there was one."""
        ended = [j for j in self._jobs.values() if j.ended]
        if ended:
            del self._jobs[min(ended, key=lambda j: j.created).id]
        return bool(ended)

    def job_result(self, job_id: str, image: bytes) -> None:
        """Add an image to a job; drops the oldest ended jobs for it, and fails the job where there
        is no room."""
        if (job := self._jobs.get(job_id)) is None or job.ended:
            return
        while self._job_bytes() + len(image) > self._max_bytes:
            if not self._drop_ended():
                job.results.clear()
                self.job_failed(job_id, f"the images of jobs take more than {self._max_bytes:,} "
                                "bytes; send fewer photos, or size base")  # fmt: skip
                return
        job.results.append(image)
        if len(job.results) == job.images:
            job.state = "done"

    def _job_bytes(self) -> int:
        return sum(len(image) for job in self._jobs.values() for image in job.results)

    def job_failed(self, job_id: str, message: str) -> None:
        if job := self._jobs.get(job_id):
            job.state, job.message = "failed", message

    def job(self, job_id: str, owner: str) -> JobAnswer | None:
        self._expire_jobs()
        job = self._jobs.get(job_id)
        return job.answer() if job and job.owner == owner else None

    def job_image(self, job_id: str, owner: str, index: int) -> bytes | None:
        """The PNG of a finished image."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner or not 0 <= index < len(job.results):
            return None
        return job.results[index]

    def _expire_jobs(self) -> None:
        """Fail the jobs of dead processes; drop jobs older than ``job_age``."""
        now = time.monotonic()
        alive = {k for k, (seen, _) in self._processes.items() if now - seen < HEARTBEAT_TIMEOUT}
        for job in list(self._jobs.values()):
            if not job.ended and job.ingress not in alive:
                job.state, job.message = "failed", "the process that ran it has died; send it again"
            if now - job.created > self._max_age:
                del self._jobs[job.id]

    def heartbeat(self, process: str, samples: dict[str, float]) -> bool:
        """Record a process's counters. Returns whether the process must drain."""
        now = time.monotonic()
        self._processes[process] = (now, samples)
        for other, (seen, last) in list(self._processes.items()):
            if now - seen > HEARTBEAT_TIMEOUT:
                del self._processes[other]
                for key, value in last.items():
                    if "_total" in key or "_seconds" in key:  # counters must not decrease
                        self._dead_counters[key] = self._dead_counters.get(key, 0.0) + value
        return self._draining

    def drain(self) -> bool:
        """Ask ingresses, at their next heartbeat, to refuse new work. Returns whether all do, and
        no job or request is left, as of the last heartbeats."""
        self._draining = True
        ingresses = [s for _, s in self._processes.values() if "draining" in s]
        closed = bool(ingresses) and all(s["draining"] for s in ingresses)
        jobs = any(not j.ended for j in self._jobs.values())
        return closed and not jobs and not any(s["open_requests"] for s in ingresses)

    def samples(self) -> list[dict[str, float]]:
        """Counters of every live process, and the sum of all dead ones."""
        return [self._dead_counters, *(s for _, s in self._processes.values())]
