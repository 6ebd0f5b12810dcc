"""The page of the HTTP interface in docs/reference/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from reference_tables import fields_table, limits, one_line, table


def http() -> str:
    """The operations of the HTTP interface, their bodies, answers and status codes."""
    from fastapi.openapi.utils import get_openapi

    from serving import schemas
    from serving.api.openai import EditAnswer, EditBody, ModelRow
    from serving.app import make_app

    paths = get_openapi(title="", version="", routes=make_app().routes)["paths"]
    operations = [
        (f"`{method.upper()} {path}`", operation)
        for path, methods in sorted(paths.items())
        for method, operation in sorted(methods.items())
    ]
    summary = [
        (name, one_line(operation.get("description") or operation["summary"]).replace("``", "`"))
        for name, operation in operations
    ]
    parameters = [
        (name, f"`{p['name']}`", _schema_text(p["schema"]), p.get("description", ""))
        for name, operation in operations
        for p in operation.get("parameters", [])
        if p["in"] == "query"
    ]
    codes = [(str(status), error["description"]) for status, error in schemas.ERRORS.items()]
    answers = {
        "`POST /v1/stylize`, as JSON": schemas.StylizeAnswer,
        "An item of `images`": schemas.ImageRow,
        "`POST /v1/encodings`": schemas.EncodingsAnswer,
        "An item of `encodings`": schemas.EncodingRow,
        "`POST /v1/faces`": schemas.FacesAnswer,
        "An item of `photos`": schemas.FacesRow,
        "An item of `faces`": schemas.Face,
        "`POST /v1/jobs`, `GET /v1/jobs/{job}`": schemas.JobAnswer,
        "`POST /v1/inspect`": schemas.InspectAnswer,
        "`POST /v1/images/edits`": EditAnswer,
        "`GET /v1/models/{model}`; `GET /v1/models` has a list of them in `data`": ModelRow,
        "`GET /v1/styles`": schemas.StylesAnswer,
        "An item of `styles`; `GET /v1/styles/{style}` adds `settings`, `metrics` and `mix`": (
            schemas.StyleRow
        ),
    }
    return (
        "# HTTP\n\n"
        "A running server shows this interface with examples at `/docs`, and as OpenAPI at "
        "`/openapi.json`. With `--keys`, send `Authorization: Bearer KEY` or `X-API-Key: KEY` to "
        "paths below `/v1/`; previews, health and metrics need no key.\n\n"
        + table(("operation", "what it does"), summary)
        + "\n## Query parameters\n\n"
        + table(("operation", "parameter", "allowed", "meaning"), parameters)
        + "\n## Bodies\n\n"
        "A body is JSON, with pictures as base64, or a form, with pictures as files; it may be "
        "compressed (`Content-Encoding: gzip`). The server reads the formats that corpora read "
        "(PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP, PPM, and HEIC with the extra `heif`), and fetches "
        "no address.\n\n"
        "`POST /v1/stylize` and `POST /v1/jobs`:\n\n"
        + fields_table(schemas.StylizeBody, "field")
        + "\n`mix` is the same object as in a corpus: see [Mix](mix.md).\n\n"
        "`POST /v1/encodings`:\n\n"
        + fields_table(schemas.EncodingsBody, "field")
        + """
`POST /v1/faces`:

"""
        + fields_table(schemas.FacesBody, "field")
        + """
`POST /v1/inspect` takes a form with the file `image` only.

`POST /v1/jobs` also takes:

"""
        + table(
            ("field", "meaning"),
            [("`webhook`", schemas.JobBody.model_fields["webhook"].description or "")],
        )
        + """
`POST /v1/images/edits`, a form as OpenAI's clients send it, with the files `image` and, optionally,
`mask`:

"""
        + fields_table(EditBody, "field")
        + """
In a form, `image` is a photo and may occur several times, `encoding` is the id of a photo that was
sent before, `mask.NAME` is the mask NAME, `mix` is the mix as JSON, and `crop` is `X,Y,SIDE`. The
other fields of the endpoint have the names and values of JSON.

An id names a photo's file. It belongs to the API key that sent the photo; other keys get 404.

## Answers

One image is answered as PNG, JPEG, WebP or JSON, whichever `Accept` prefers; several images as
JSON. Each image contains its provenance. Headers of an image answer:

| header | meaning |
| --- | --- |
| `X-Style-Version` | the versions that made the image |
| `X-Base` | fingerprint of the base |
| `X-Mix` | the mix with its defaults, as JSON |
| `X-Encoding` | id of the photo, for later calls |
| `X-Photo-Size`, `X-Image-Size` | width and height of the photo and of the image, as `640x480` |
| `X-Faces` | with fit `align`: number of stylized faces |
| `X-Encoding-Cached` | whether the photo's encoding was in the cache |
| `X-Batch-Size` | images that were computed together |
| `X-PART-Seconds` | seconds of PART: `Queue`, `Load`, `Encode`, `Decode`, `Total` |

Fields of JSON answers:

"""
        + "\n".join(f"{title}:\n\n{_answer_table(model)}" for title, model in answers.items())
        + """
Paths in answers begin at the server's root, without a prefix that a proxy adds. The header
`Location` of a job has the prefix (setting `root_path`). Every path that takes GET takes HEAD.

A job's images are at the paths in `results`. A job is dropped after `job_age` seconds, or when the
server ends.

## Progress

With `Accept: text/event-stream`, `POST /v1/stylize` answers with server-sent events: `progress`,
repeatedly, then `result` with the JSON answer, or `error` with the body of an error. Closing the
connection cancels the work. Data of `progress`:

"""
        + _answer_table(schemas.ProgressEvent)
        + """
A job's progress is in its answer; `DELETE /v1/jobs/{job}` cancels it.

## Errors

"""
        + table(("status", "meaning"), codes)
        + """
The body is `{"error": {...}}` with these fields:

| field | meaning |
| --- | --- |
| `status` | the status code |
| `message` | what is wrong |
| `field` | the field, such as `mix.styles[0].weight` |
| `value` | the value that was sent, shortened |
| `allowed` | what is allowed |
| `errors` | if there are several problems: each with `field`, `value`, `message` and `allowed` |
| `retry_after` | seconds to wait, as in the header `Retry-After`; with 429 and 503 |
"""
    )


def _answer_table(model: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", limits(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    return table(("field", "type", "meaning"), rows)


def _schema_text(schema: Mapping[str, Any]) -> str:
    """The allowed values of a query parameter, from its JSON Schema."""
    if "anyOf" in schema:
        return " or ".join(_schema_text(s) for s in schema["anyOf"] if s.get("type") != "null")
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"a whole number in [{low}, {high}]"
    if schema["type"] == "array":
        return "text; may occur several times"
    most = schema.get("maxLength")
    return f"text of at most {most} characters" if most else "text"
