"""Checks that a schema cannot say, each told once and held twice: by the model in Python, on a cluster in CEL.

Kubernetes' API server evaluates `x-kubernetes-validations` of a CustomResourceDefinition (the Common Expression
Language), so that `kubectl apply` refuses what `serinus validate` refuses, in the same words, before anything is
stored. CEL has no days, so durations are read by an expression of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from pydantic import model_validator

M = TypeVar("M")
KEYWORD = "x-kubernetes-validations"
_ATTRIBUTE = "__serinus_rule__"
_UNITS = "{'d': 86400000, 'h': 3600000, 'm': 60000, 's': 1000, 'ms': 1}"


@dataclass(frozen=True)
class Rule:
    """What must hold: `words` say what is allowed, `cel` is true where it is so."""

    words: str
    cel: str

    def schema(self) -> dict[str, str]:
        """As an entry of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.words}


def must(words: str, *, cel: str) -> Callable[[Callable[[M], bool | str]], Any]:
    """A validator of a whole model. What it decorates returns whether the model holds, or what in particular is wrong.

    Args:
        words: what is allowed; reads on from "allowed:".
        cel: the same check as a CEL expression on `self`, in which every default is filled in, and a null is as good as
            left out: `has(self.field)` is false for both.
    """

    def decorate(holds: Callable[[M], bool | str]) -> Any:
        @wraps(holds)
        def check(self: M) -> M:
            found = holds(self)
            if found is not True:
                raise ValueError(f"{words}; {found}" if found else words)
            return self

        setattr(check, _ATTRIBUTE, Rule(words, cel))
        return model_validator(mode="after")(check)

    return decorate


def rules_of(model: type[Any]) -> list[Rule]:
    """The rules that a model's validators carry, its bases' first."""
    validators = model.__pydantic_decorators__.model_validators.values()
    rules = [getattr(each.func, _ATTRIBUTE, None) for each in validators]
    return [rule for rule in rules if rule is not None]


def cel(expression: str, words: str) -> dict[str, Any]:
    """A rule on a single value, as `json_schema_extra` of its field."""
    return {KEYWORD: [Rule(words, expression).schema()]}


def immutable(words: str) -> dict[str, Any]:
    """A value that never changes once it is stored. Only a cluster knows what was stored before."""
    return cel("self == oldSelf", words)


def milliseconds(field: str) -> str:
    """CEL for a duration's length. What is no duration has a length of nothing; its own pattern refuses it."""
    return f"{field}.findAll('[0-9]+(ms|[dhms])').map(t, int(t.find('[0-9]+')) * {_UNITS}[t.find('[a-z]+')]).sum()"
