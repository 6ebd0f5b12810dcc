"""Methods by name, and bases and styles of any method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.methods.interface import LoadedBase, Method, Style
from osasis.bundles.files import STYLE_JSON, method_name, read_base_json, read_json
from osasis.errors import UserError
from osasis.images.photo_options import PhotoOptions
from osasis.mix import DIFFSTYLER_SHARE_FIELDS, Mix
from osasis.validation import InvalidInputError, Problem

if TYPE_CHECKING:
    import torch

METHODS = ("osasis", "diffstyler")


def find_method(name: str) -> Method:
    """The method of this name. Raises UserError."""
    if name == "osasis":
        from factory.methods.osasis.method import OsasisMethod

        return OsasisMethod()
    if name == "diffstyler":
        from factory.methods.diffstyler.method import DiffStylerMethod

        return DiffStylerMethod()
    raise UserError(
        f"method {name!r} is unknown; this version has {', '.join(METHODS)}; install a newer one"
    )


def method_of(info: Mapping[str, Any]) -> Method:
    """The method of a base or style. info: content of its JSON file. Raises UserError."""
    return find_method(method_name(info))


def all_methods() -> list[Method]:
    return [find_method(name) for name in METHODS]


def read_base_info(folder: Path) -> dict[str, Any]:
    """Read and check base.json. Raises UserError."""
    return method_of(read_base_json(folder)).check_base(folder)


def image_size(info: Mapping[str, Any]) -> int:
    """Side in pixels of the squares that a base computes with. info: content of base.json."""
    return method_of(info).image_size(info)


def base_facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a client needs to know of a base to make mixes. info: content of base.json."""
    method = method_of(info)
    return {
        "method": method.name,
        "mix_fields": sorted(method.mix_fields),
        "any_shape": method.any_shape,
        **method.facts(info),
    }


def load_base(folder: Path, device: str | torch.device = "cpu") -> LoadedBase:
    """Load a base. Raises UserError naming the missing or damaged file, or the GPU."""
    return method_of(read_base_json(folder)).load_base(folder, device)


def load_style(folder: Path, base: LoadedBase | None = None) -> Style:
    """Load a style. Raises UserError where it is damaged or was not trained on ``base``."""
    path = folder / STYLE_JSON
    method = find_method("osasis")  # says what a folder without the file lacks
    if path.is_file():
        method = method_of(read_json(path, "train the style again"))
    if base is not None and base.method.name != method.name:
        raise UserError(
            f"{folder}: a style of method {method.name}, but base {base.name} is of method "
            f"{base.method.name}; choose a base of the style's method"
        )
    return method.load_style(folder, base)


def mix_defaults(style: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """What a mix takes from its first style where it sets nothing.

    style: folder of the style. base: content of base.json. Raises UserError.
    """
    info = read_json(style / STYLE_JSON, "train the style again")
    return method_of(info).mix_defaults(info, base)


def keeps_photo(style: Path) -> bool:
    """Whether the photo itself is outside of all masks of a mix whose first style this is; else it
    is the base's picture.

    style: folder of the style. True for a style that cannot be read: loading it reports why.
    """
    try:
        info = read_json(style / STYLE_JSON, "train the style again")
        return method_of(info).keeps_photo(info)
    except (UserError, OSError):
        return True


def check_mix(mix: Mix, info: Mapping[str, Any]) -> None:
    """Check a mix for a base. info: content of base.json. Raises InvalidInputError."""
    method = method_of(info)
    problems = [
        Problem(
            name,
            value,
            f"{name} is no field of a mix of method {method.name}, which is the base's; it has "
            f"{', '.join(sorted(method.mix_fields))}",
        )
        for name, value in mix.changes().items()
        if name not in method.mix_fields
    ]
    problems += [
        Problem(
            f"styles[{i}].{name}",
            value,
            f"{name} is no field of a style in a mix of method {method.name}, which is the base's",
        )
        for i, share in enumerate(mix.styles)
        for name, value in share.model_dump(mode="json").items()
        if name in DIFFSTYLER_SHARE_FIELDS and name not in method.share_fields
    ]
    if problems := problems + method.mix_problems(mix, info):
        raise InvalidInputError(mix.subject, problems)


def check_fit(options: PhotoOptions, info: Mapping[str, Any]) -> None:
    """Check the fit of photos for a base. info: content of base.json. Raises InvalidInputError."""
    method = method_of(info)
    if options.fit == "whole" and not method.any_shape:
        message = f"fit is whole, but bases of method {method.name} compute with squares"
        allowed = "one of crop, pad, resize, align"
        raise InvalidInputError(options.subject, [Problem("fit", options.fit, message, allowed)])


def all_metrics() -> tuple[str, ...]:
    """The metrics of styles of any method."""
    return tuple(dict.fromkeys(name for m in all_methods() for name in m.metrics))


def all_settings() -> tuple[str, ...]:
    """The names of the training settings of any method."""
    return tuple(dict.fromkeys(name for m in all_methods() for name in m.settings.model_fields))
