"""The mask that one photo of a corpus has of its own."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from factory.core.object_store import StoreError
from osasis.errors import ImageError, UserError
from osasis.images.decoding import load_sized, png_bytes
from osasis.images.geometry import Size
from osasis.images.masks import fit_mask, read_mask, shape_problem
from osasis.images.transparency import separate_alpha
from osasis.segmenting import MaskProposal
from pipelines.job_spec import JobSpec
from pipelines.subprocess_timeout import CallTimeoutError, WorkerCrashedError, run_with_timeout


@dataclass(frozen=True)
class PhotoMask:
    """A photo's mask, as greyscale PNGs.

    png: the mask as it is given. square: at the base's square. sha256: of the file. file: its
    bytes. problem: why the photo has no mask; "" where the job has none of this kind.
    """

    png: bytes | None = None
    square: bytes | None = None
    sha256: str = ""
    file: bytes = b""
    problem: str = ""

    def to_row(self) -> dict[str, Any]:
        """Columns of SQUARES, and mask_problem."""
        return {
            "mask": self.png,
            "mask_square": self.square,
            "mask_sha256": self.sha256,
            "mask_problem": self.problem,
        }


# Limit for loading a segmenter's model, and for its download.
CHECK_SECONDS = 600.0
# Runs whose segmenter this process has checked.
_checked: set[str] = set()


def check_segmenter(job: JobSpec) -> None:
    """Raise UserError where the segmenter is another here than where the job was made."""
    masks = job.photo_masks
    if masks is None or masks.proposal is None or job.run in _checked:
        return
    try:
        # In the process that reads the photos, which keeps the model.
        seconds = job.timeout and max(job.timeout, CHECK_SECONDS)
        problem = run_with_timeout(seconds, _problem_of, masks.proposal, masks.proposal_identity)
    except (CallTimeoutError, WorkerCrashedError) as e:
        problem = f"the segmenter {masks.proposal.segmenter.name}: {e}"
    if problem:
        raise UserError(f"on {socket.gethostname()}: {problem}")
    _checked.add(job.run)


def _problem_of(proposal: MaskProposal, identity: dict[str, Any] | None) -> str:
    """Why a proposal cannot be made on this machine; "" where it can."""
    try:
        if proposal.identity() != identity:
            return (
                f"{proposal.segmenter.model} is another file than on the machine of the command; "
                "put the same file at this path on every node"
            )
        proposal.segmenter.check(proposal.region)
    except FileNotFoundError as e:
        return f"{e.filename} is missing; put it at this path on every node"
    except (UserError, OSError) as e:
        return str(e)
    return ""


def read_photo_mask(
    data: bytes, fetch: Callable[[], bytes] | None, photo: Size, job: JobSpec
) -> PhotoMask:
    """The mask of a photo of this size, read or proposed.

    data: of the photo. fetch: returns the bytes of its mask file, if it has one.
    Raises StoreError.
    """
    if job.photo_masks is None:
        return PhotoMask()
    try:
        if (proposal := job.photo_masks.proposal) is not None:
            image, _ = load_sized(data, alpha=True)
            picture, _ = separate_alpha(image, keep=True)
            mask = proposal.segmenter.propose(picture, proposal.region)
            png = png_bytes(mask)
            digest, file = hashlib.sha256(png).hexdigest(), b""
        elif fetch is not None:
            file = fetch()
            mask = read_mask(file, "mask")
            if problem := shape_problem(mask.size, photo, job.options.crop is not None):
                return PhotoMask(file=file, problem=f"the mask {problem}")
            png, digest = png_bytes(mask), hashlib.sha256(file).hexdigest()
        else:
            return PhotoMask(problem="there is no mask")
        square = fit_mask(mask, job.square, job.options, photo)
    except ImageError as e:
        return PhotoMask(problem=e.reason)
    except StoreError:
        raise
    except UserError as e:
        return PhotoMask(problem=str(e))
    return PhotoMask(png, png_bytes(square), digest, file)
