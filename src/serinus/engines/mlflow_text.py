"""Texts in the forms and lengths that MLflow takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from serinus.core.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DESCRIPTION_LIMIT = 5000  # MLflow's column; a longer text is an error on PostgreSQL


def named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot name a model", hint="use letters, digits and inner -, _ or .")
    return name


def quotable(text: str) -> str:
    if "'" not in text:
        return text
    raise InvalidInput(f"{text!r} may not hold a quote")


def key(text: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", text)[:250]


def flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as dotted names with text values, which is all that MLflow takes."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)


def cut(card: str) -> str:
    note = "\n\n(cut here; the run's card.md holds all of it)"
    return card if len(card) <= DESCRIPTION_LIMIT else card[: DESCRIPTION_LIMIT - len(note)] + note


def without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
