"""A corpus whose input, or whose mixes, change between two runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.core.stores import Store
from osasis.errors import UserError
from osasis.images.listing import find_images
from pipelines import stylize
from pipelines.job_folder import DONE, FAILED, MISSING, JobFolder, OutputRecord, write_records
from pipelines.job_identity import SavedJob, write_job
from pipelines.job_revision import InputChanges, known_names, take_up
from pipelines.manifest import build_manifest, listing_digest, output_names, photo_digest
from pipelines.source import open_source
from tests.pipelines.conftest import state_of, written
from tests.tiny import picture

MIXES = ({"styles": [{"style": "oil"}]}, {"styles": [{"style": "ink"}]})


class Job:
    """A job folder on a folder of photos, without Ray: outputs are only recorded."""

    def __init__(self, photos: Path, output: Path | str) -> None:
        self.photos, self.output = photos, output

    def run(
        self,
        mixes: tuple[dict[str, object], ...] = MIXES,
        versions: str = "1",
        fail: tuple[str, ...] = (),
        **policy: bool,
    ) -> tuple[InputChanges | None, list[tuple[str, int]], JobFolder]:
        """Record all missing outputs as done; returns the changes and what was missing."""
        source, folder = open_source(self.photos), JobFolder(self.output)
        keys = source.listing["key"].to_pylist()
        names = output_names(keys, known=known_names(folder))[0]
        manifest = build_manifest(source, [list(range(len(mixes)))] * source.count, {}, names)
        styles = {m["styles"][0]["style"]: versions for m in mixes}  # type: ignore[index]
        fingerprint = {
            "code": "1", "base": "b", "styles": styles, "options": {"format": "png"},
            "targets": list(mixes), "input": listing_digest(manifest),
        }  # fmt: skip
        changes = take_up(folder, fingerprint, manifest, **policy)
        folder.open(fingerprint, manifest)
        made, records = [], []
        for photo, targets in folder.missing():
            key = keys[photo].decode()
            digest = photo_digest((self.photos / key).read_bytes())
            for target in targets:
                made.append((key, target))
                stage, reason = ("read", "broken") if key in fail else ("", "")
                records.append(OutputRecord(photo, target, stage, reason, digest=digest))
        write_records(folder.place.location, folder.run, records)
        folder.merge_records()
        return changes, made, folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        picture(i, (20, 20)).save(photos / name)
    job = Job(photos, tmp_path / "out")
    job.run()
    return job


def test_new_photos_are_made_and_the_others_kept_under_their_names(job: Job) -> None:
    picture(9, (20, 20)).save(job.photos / "0.png")
    picture(8, (20, 20)).save(job.photos / "b.jpg")  # alone it would be named b, which is taken
    changes, made, folder = job.run()
    assert changes == InputChanges(new=2)
    assert made == [("0.png", 0), ("0.png", 1), ("b.jpg", 0), ("b.jpg", 1)]
    names = dict(zip(*(folder.manifest[n].to_pylist() for n in ("key", "name")), strict=True))
    assert names == {
        b"0.png": b"0", b"a.png": b"a", b"b.png": b"b", b"b.jpg": b"b.jpg", b"c.png": b"c",
    }  # fmt: skip
    assert folder.count(DONE) == 10
    assert job.run()[:2] == (None, [])


def test_equal_bytes_with_another_time_are_kept_and_other_bytes_made_again(job: Job) -> None:
    os.utime(job.photos / "a.png", ns=(1, 1))
    picture(7, (20, 20)).save(job.photos / "b.png")
    (job.photos / "c.png").unlink()
    changes, made, _ = job.run()
    assert changes == InputChanges(changed=("b.png",), vanished=("c.png",), touched=1)
    assert made == [("b.png", 0), ("b.png", 1)]
    assert str(changes) == "1 changed, 1 vanished, 1 with another time of change only"


def test_a_failed_photo_stays_failed_until_its_file_changes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        picture(1, (20, 20)).save(photos / name)
    job = Job(photos, tmp_path / "out")
    job.run(fail=("a.png", "b.png"))
    picture(2, (20, 20)).save(photos / "a.png")
    picture(3, (20, 20)).save(photos / "new.png")
    _, made, folder = job.run()
    assert made == [("a.png", 0), ("a.png", 1), ("new.png", 0), ("new.png", 1)]
    assert folder.count(FAILED) == 2


def test_a_frozen_job_refuses_a_changed_input_and_stays_as_it_is(job: Job) -> None:
    before = {p: p.read_bytes() for p in (job.output / ".job").rglob("*") if p.is_file()}
    picture(9, (20, 20)).save(job.photos / "0.png")
    with pytest.raises(UserError, match=r"3 photo\(s\) before, 4 now.*leave --frozen out"):
        job.run(frozen=True)
    assert {p: p.read_bytes() for p in before} == before


def test_other_mixes_need_update_which_makes_again_what_differs(job: Job) -> None:
    other = (MIXES[1], {"styles": [{"style": "oil"}], "strength": 0.5})
    with pytest.raises(UserError, match="give --update"):
        job.run(other)
    changes, made, _ = job.run(other, update=True)
    assert changes == InputChanges()
    # The outputs in ink are kept, although its mix is the first one now.
    assert made == [("a.png", 1), ("b.png", 1), ("c.png", 1)]
    _, made, folder = job.run(other, versions="2", update=True)
    assert len(made) == 6
    assert folder.count(MISSING) == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_change_is_discarded_or_complete(
    job: Job, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new state counts from the moment on that job.json names it."""
    jobs, earlier = job.output / ".job", state_of(job.output)
    picture(9, (20, 20)).save(job.photos / "0.png")
    with monkeypatch.context() as patch:

        def write_and_die(folder: Store, saved: SavedJob) -> None:
            if moment == "after":
                write_job(folder, saved)
            raise KeyboardInterrupt

        patch.setattr("pipelines.job_revision.write_job", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert (state_of(job.output) == earlier) == (moment == "before")
    states = {p.name for p in jobs.iterdir() if p.is_dir()}
    assert len(states) == 2
    # Records of the earlier state say nothing about the new rows.
    stale = jobs / earlier / "records" / "ab.jsonl"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text('{"photo": 0, "target": 0, "status": "done"}\n')
    _, made, folder = job.run()
    assert made == [("0.png", 0), ("0.png", 1)]
    assert folder.count(DONE) == 8
    assert [p.name for p in jobs.iterdir() if p.is_dir()] == [state_of(job.output)]


def test_a_job_of_another_format_is_refused(job: Job) -> None:
    file = job.output / ".job" / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 1}))
    for policy in ({}, {"update": True}):
        with pytest.raises(UserError, match=r"\.job holds a job of format 1, of another version"):
            job.run(**policy)


@pytest.mark.slow
@pytest.mark.ci
def test_a_grown_folder_is_stylized_with_the_same_command(
    gallery: Home, local_ray: None, tmp_path: Path
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(3):
        picture(i, (40, 36)).save(photos / f"{i}.png")
    call = {"home": gallery, "workers": 1}
    stylize(["oil"], photos, output, **call)  # type: ignore[arg-type]
    before = {p.name: p.stat().st_mtime_ns for p in (output / "oil").iterdir()}
    picture(5, (40, 36)).save(photos / "1.png")
    (photos / "2.png").unlink()
    picture(6, (36, 40)).save(photos / "new.png")
    grown = stylize(["oil"], photos, output, **call)  # type: ignore[arg-type]
    assert (grown.images, grown.done_now, grown.failed) == (3, 2, 0)
    assert grown.changes == {
        "new": 1, "changed": ["1.png"], "vanished": ["2.png"], "touched": 0
    }  # fmt: skip
    after = {p.name: p.stat().st_mtime_ns for p in (output / "oil").iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"0.png", "2.png"}
    whole = stylize(["oil"], photos, tmp_path / "whole", **call)  # type: ignore[arg-type]
    made = written(output)
    assert len(find_images(photos)) == whole.images == 3
    assert made.items() >= written(tmp_path / "whole").items()
