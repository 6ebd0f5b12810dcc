"""Settings of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core.yaml_files import read_yaml_file
from osasis.errors import UserError
from osasis.segmenting import Segmenter
from osasis.validation import InputModel, Problem

MB = 1_000_000
Count = Annotated[int, Field(ge=1, le=10**13)]
Budget = Annotated[int, Field(ge=0, le=10**13)]
Seconds = Annotated[float, Field(gt=0, le=1e13)]


class Limits(InputModel):
    """Limits of one request."""

    subject: ClassVar[str] = "limits"

    body_bytes: Count = Field(25 * MB, description="bytes of a request's body")
    pixels: Count = Field(
        50_000_000, description="pixels of an image, read from its header before decoding"
    )
    frames: Count = Field(1, description="frames of an image")
    faces: Count = Field(16, description="faces of a photo that `align` finds")
    images: Count = Field(8, description="images of a request")
    job_images: Count = Field(64, description="images of a job")
    styles: Count = Field(4, description="styles of a mix")
    encode_steps: Count = Field(
        200, description="inversion steps of a full schedule; a step of `fixed_point` counts three"
    )
    decode_steps: Count = Field(200, description="decoding steps of a full schedule")
    seconds: Seconds = Field(120.0, description="seconds of a request")
    body_rate: Count = Field(
        20_000, description="bytes a second with which a body must arrive, after 5 seconds"
    )


class ServeConfig(InputModel):
    """Settings of `style-factory serve`."""

    subject: ClassVar[str] = "serve"

    home: str | None = Field(None, description="home of the installation")
    base: str | None = Field(None, description="name of the base; null: the only one")
    replicas: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="number of engines")
    ingresses: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="processes that receive HTTP requests"
    )
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="device of the engines; null: `cuda` where an engine has a GPU"
    )
    threads: Count = Field(
        1,
        description="CPU threads of an engine; with more than 1, images differ by rounding from "
        "those of a corpus",
    )
    engine_cpus: Annotated[float, Field(ge=0, le=1024)] = Field(
        1.0, description="CPUs that Ray reserves for an engine"
    )
    engine_gpus: Annotated[float, Field(ge=0, le=16)] | None = Field(
        None,
        description="GPUs that Ray reserves for an engine, such as 0.5; 0: engines compute on the "
        "CPU; null: the engines share the cluster's GPUs",
    )
    queue: Count = Field(
        64, description="images in progress at an ingress, above which it answers 503"
    )
    bodies: Count = Field(
        256 * MB,
        description="bytes of bodies at an ingress, above which it answers 503",
    )
    batch: Count = Field(8, description="images that an engine computes together, at most")
    batch_wait: Annotated[float, Field(ge=0, le=10)] = Field(
        0.01, description="seconds that the first image of a batch waits for others"
    )
    styles_host: Budget = Field(
        2000 * MB, description="bytes of styles that an engine keeps in host memory"
    )
    styles_device: Budget = Field(
        1000 * MB, description="bytes of styles that an engine keeps on its device"
    )
    encodings: Budget = Field(256 * MB, description="bytes of encodings that an engine keeps")
    photos: Budget = Field(256 * MB, description="bytes of stored photos")
    fitted: Budget = Field(
        256 * MB, description="bytes of photos, fitted to the base, that an ingress keeps"
    )
    pinned: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="styles that stay loaded, as far as the caches hold them"
    )
    prewarm: Annotated[int, Field(ge=0, le=10_000)] = Field(
        2, description="further styles that are loaded at startup"
    )
    poll: Annotated[float, Field(ge=0.05, le=3600)] = Field(
        1.0, description="seconds between two polls of the registry"
    )
    stall: Seconds = Field(
        120.0, description="seconds at one step after which an engine is replaced"
    )
    drain: Annotated[float, Field(ge=0, le=3600)] = Field(
        60.0, description="seconds to finish accepted requests at shutdown"
    )
    made_age: Seconds = Field(
        86_400.0, description="seconds for which a style made from an image is kept without use"
    )
    jobs: Count = Field(64, description="number of stored jobs")
    job_bytes: Budget = Field(1000 * MB, description="bytes of the images of stored jobs")
    job_age: Seconds = Field(3600.0, description="seconds that a job is stored")
    webhooks: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="addresses that jobs may name as webhook, with all paths below them, such as "
        "https://hooks.example/styles/",
    )
    cors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="origins whose scripts may use the server, such as https://a.example; `*`: all",
    )
    root_path: Annotated[str, Field(pattern=r"^(/[^/?#]+)*$")] = Field(
        "",
        description="path below which a proxy serves this server, such as /styles; the proxy "
        "strips it",
    )
    connections: Annotated[int, Field(ge=0, le=10**6)] = Field(
        1000, description="open connections; 0: no limit"
    )
    client_connections: Annotated[int, Field(ge=0, le=10**6)] = Field(
        100, description="open connections of one address; 0: no limit, for servers behind a proxy"
    )
    head_seconds: Seconds = Field(10.0, description="seconds for the head of a request to arrive")
    keys: str | None = Field(None, description="file of API keys; null: every client is served")
    traces: str | None = Field(
        None,
        description="address of an OpenTelemetry collector (OTLP over HTTP), such as "
        "http://127.0.0.1:4318; null: no traces. Needs the extra `otel`",
    )
    log: str | None = Field(None, description="file of JSON lines; null: standard error")
    segmenter: Segmenter = Field(
        default_factory=Segmenter, description="what proposes masks of photos"
    )
    limits: Limits = Field(default_factory=Limits, description="limits of one request")

    def cross_problems(self) -> list[Problem]:
        if self.device == "cuda" and self.engine_gpus == 0:
            message = "engine_gpus is 0, but device is cuda; give each engine a share of a GPU"
        elif self.device == "cpu" and self.engine_gpus:
            message = f"engine_gpus is {self.engine_gpus:g}, but device is cpu; leave one out"
        else:
            return []
        return [Problem("engine_gpus", self.engine_gpus, message)]


def load_config(path: Path) -> dict[str, Any]:
    """The plain data of a YAML or JSON file of settings.

    Raises UserError for a file that cannot be read or parsed, InvalidInputError with every problem
    of its settings and their lines.
    """
    file = read_yaml_file(path)
    if not isinstance(file.data, dict):
        raise UserError(f"{path}: it must be an object of settings")
    file.parse(ServeConfig)
    return file.data
