"""Where the engines of a cluster are: read from the environment, as a Secret of the namespace has it."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from serinus.core.errors import InvalidInput, NotFound
from serinus.core.platform import Platform

VARIABLE = "SERINUS_PLATFORM"
"""Holds the Platform as YAML, or the path of a file that does."""


def platform_from_environment() -> Platform | None:
    """The platform that the environment names; None where it names none, as on a laptop.

    Raises:
        NotFound: the file that it names does not exist.
        InvalidInput: it describes no platform. What it says is not repeated, for it may hold passwords.
    """
    text = os.environ.get(VARIABLE, "").strip()
    return find_platform(text, VARIABLE) if text else None


def find_platform(text: str, origin: str = "the platform") -> Platform:
    """The platform that a text describes as YAML or JSON, or that a file describes whose path it is.

    Args:
        text: what to read.
        origin: what to call it in an error.

    Raises:
        NotFound: the file does not exist.
        InvalidInput: no platform is described. What is is not repeated, for it may hold passwords.
    """
    if "\n" not in text and ":" not in text.split("/")[0]:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise NotFound(f"{origin} is said to be in {text}, which cannot be read: {error.strerror}") from error
    return _read(text, origin)


def _read(text: str, origin: str) -> Platform:
    hint = "its fields are those of serinus.core.platform.Platform"
    try:
        return Platform.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidInput(f"{origin} is no YAML", hint=hint) from error
    except ValidationError as error:
        places = ", ".join(sorted({".".join(map(str, each["loc"])) or "all of it" for each in error.errors()}))
        raise InvalidInput(f"{origin} lacks or misnames: {places}", hint=hint) from None
