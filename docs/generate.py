"""Writes what follows from the code: the reference pages and the CustomResourceDefinitions.

`make docs` writes them; `python docs/generate.py --check` only says which ones are out of date, as a test does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from serinus.cli import app
from serinus.control.refresh import MeasuredRefresher
from serinus.control.scorer_loop import MeasuredScorer
from serinus.core import errors
from serinus.core.crd import custom_resource_definition, structural_schema
from serinus.core.spec import API_VERSION, KINDS
from serinus.core.spec.common import PATTERN_WORDS
from serinus.core.spec.rules import KEYWORD
from serinus.core.times import DURATION_PATTERN, format_duration
from serinus.operator.metrics import Metrics
from serinus.operator.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
NOTICE = "generated from the code by `make docs`; do not edit"
_BOUNDS = {"minimum": (">=", ">"), "maximum": ("<=", "<")}


def generated() -> dict[Path, str]:
    """Every generated file's path below the repository, and what it must hold."""
    pages = {
        Path("docs/reference/spec.md"): "\n".join(_spec()),
        Path("docs/reference/cli.md"): "\n".join(_cli()),
        Path("docs/reference/metrics.md"): "\n".join(_metrics()),
        Path("docs/reference/errors.md"): "\n".join(_errors()),
        Path("docs/reference/operator.md"): "\n".join(_operator()),
    }
    texts = {path: f"<!-- {NOTICE} -->\n{text.rstrip()}\n" for path, text in pages.items()}
    for kind in KINDS:
        definition = custom_resource_definition(kind)
        path = Path("manifests/base/crds") / f"{definition['spec']['names']['plural']}.yaml"
        texts[path] = f"# {NOTICE}\n" + yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True)
    return texts


def outdated() -> list[Path]:
    """The generated files that are missing or differ from what the code says."""
    return [path for path, text in generated().items() if not _holds(ROOT / path, text)]


def main() -> int:
    """Write what is out of date, or with `--check` only say so (exit code 1)."""
    check = sys.argv[1:] == ["--check"]
    stale = outdated()
    texts = generated()
    for path in stale:
        sys.stdout.write(f"{'out of date' if check else 'wrote'}: {path}\n")
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(texts[path], encoding="utf-8")
    return int(check and bool(stale))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _spec() -> Iterator[str]:
    yield "# The spec\n"
    yield "A `serinus.yaml` holds one resource of each kind. `serinus validate` checks it, `serinus schema` prints this"
    yield "as JSON Schema and, with `--crd`, as what a Kubernetes cluster needs. Durations are written `36h`, `31d`,"
    yield "`1h30m` or `500ms`; times with their zone, `2013-01-01T00:00:00Z`. A field that is not listed is refused.\n"
    for kind, model in KINDS.items():
        schema = structural_schema(model)
        yield f"## {kind}\n\n{schema['description']}\n"
        yield f"`apiVersion: {API_VERSION}`, `metadata.name` (lower-case letters, digits, hyphens) and `spec`.\n"
        yield from _table(
            ["field", "type", "default", "allowed", "meaning"], _fields(schema["properties"]["spec"], "spec")
        )
        status = schema["properties"]["status"]
        yield f"### Status of a {kind}\n\n{status['description']} On a cluster only.\n"
        rows = ([field, type_, allowed, meaning] for field, type_, _, allowed, meaning in _fields(status, "status"))
        yield from _table(["field", "type", "allowed", "meaning"], rows)


def _fields(schema: dict[str, Any], path: str) -> Iterator[list[str]]:
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        at = f"{path}.{name}"
        inner = field.get("additionalProperties")
        # An object's default is that of its fields, which follow.
        value = {} if "properties" in field else field.get("default")
        default = _code(value) if "default" in field else ("required" if name in required else "none")
        yield [f"`{at}`", _type(field), default, _allowed(field), field.get("description", "")]
        if "properties" in field:
            yield from _fields(field, at)
        elif inner and "properties" in inner:
            yield from _fields(inner, f"{at}.*")
        elif "properties" in field.get("items", {}):
            yield from _fields(field["items"], f"{at}[]")


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or text"
    if field.get("pattern") == DURATION_PATTERN:
        return "duration"
    if field.get("format") == "date-time":
        return "time"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field or "x-kubernetes-preserve-unknown-fields" in field:
        return "mapping"
    return {"string": "text"}.get(field["type"], field["type"])


def _allowed(field: dict[str, Any]) -> str:
    rules = [f"`{value}`" for value in field.get("enum", [])]
    for bound, (open_sign, closed_sign) in _BOUNDS.items():
        if bound in field:
            exclusive = field.get(f"exclusive{bound.capitalize()}")
            rules.append(f"{closed_sign if exclusive else open_sign} {field[bound]}")
    pattern = field.get("pattern")
    if pattern == DURATION_PATTERN:
        rules += ["> 0s"] if "anyOf" in field else []
    elif pattern:
        rules.append(PATTERN_WORDS.get(pattern) or f"`{pattern}`")
    # What holds for the items of a list as a whole is said at the list.
    across = [each["message"] for part in (field, field.get("items", {})) for each in part.get(KEYWORD, [])]
    return "; ".join([*filter(None, [", ".join(rules)]), *across])


def _code(value: Any) -> str:
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def _cli() -> Iterator[str]:
    import typer.main

    command: Any = typer.main.get_command(app())
    yield f"# The command line\n\n{command.help}\n"
    yield "Exit codes: 0 done, 1 an answer that is a plain no, others as in [errors](errors.md). Results go to standard"
    yield "output, progress and logs to standard error.\n"
    yield from _verbs(command, "serinus")


def _verbs(group: Any, path: str) -> Iterator[str]:
    """A section a verb; those in a group of verbs are called by both names."""
    for name, verb in group.commands.items():
        if verb.hidden:
            continue
        if hasattr(verb, "commands"):
            yield from _verbs(verb, f"{path} {name}")
            continue
        arguments = [each for each in verb.params if each.param_type_name == "argument"]
        words = [each.name.upper() if each.required else f"[{each.name.upper()}]" for each in arguments]
        yield f"## {path} {name}\n\n{' '.join((verb.help or '').split())}\n"
        yield f"```\n{' '.join([path, name, '[OPTIONS]', *words])}\n```\n"
        rows = [_parameter(each) for each in verb.params if not getattr(each, "hidden", False)]
        yield from _table(["argument or option", "default", "meaning"], rows) if rows else []
        if verb.epilog:
            yield f"{verb.epilog.replace('Example: ', 'Example: `', 1)}`\n"


def _parameter(parameter: Any) -> list[str]:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    plain = parameter.default is None or callable(parameter.default) or isinstance(parameter.default, bool)
    default = "required" if parameter.required else ("" if plain else f"`{parameter.default}`")
    return [", ".join(f"`{name}`" for name in names), default, " ".join((parameter.help or "").split())]


def _metrics() -> Iterator[str]:
    from serinus.serve.telemetry import METRICS

    yield "# Metrics\n\nWhat a predictor shows at `/metrics`, in Prometheus' text format.\n"
    yield "Every one also has the labels `model` and `version`.\n"
    yield "`traffic` is `live`, or `shadow` for copies of requests whose answers nobody gets: they are evidence about a"
    yield "version, and no part of what its users met. `serinus status` prints how many series a version has at most.\n"
    rows = [
        [f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.help]
        for each in METRICS.values()
    ]
    yield from _table(["metric", "type", "labels", "meaning"], rows)
    yield "## Features\n\nOf the pod that keeps features up to date (`serinus refresh`), with the label `model`.\n"
    measured = MeasuredRefresher(lambda now: 0, "", lambda: datetime.now(UTC), timedelta())
    yield from _table(["metric", "type", "meaning"], list(_families(measured.registry)))
    yield "## Quality\n\nOf the pod that scores rows for the operator (`serinus scorer`).\n"
    scoring = MeasuredScorer(lambda: None, lambda: None, lambda: datetime.now(UTC), timedelta())
    yield from _table(["metric", "type", "meaning"], list(_families(scoring.registry)))
    yield "## Buckets\n\nCounts at or below an edge are exact, quantiles between two edges are not: a guard on slow"
    yield "requests takes one of the edges as its limit.\n"
    edges: dict[tuple[float, ...], list[str]] = {}
    for each in METRICS.values():
        edges.setdefault(each.buckets, []).append(f"`{each.name}`")
    rows = [[", ".join(names), ", ".join(f"{edge:g}" for edge in found)] for found, names in edges.items() if found]
    yield from _table(["histogram", "upper edges"], rows)


def _families(registry: CollectorRegistry) -> Iterator[list[str]]:
    for family in registry.collect():
        name = f"{family.name}{'_total' if family.type == 'counter' else ''}"
        yield [f"`{name}`", family.type, family.documentation]


def _operator() -> Iterator[str]:
    yield "# The operator\n"
    yield "`serinus operator` is told by its environment what it cannot find on the cluster.\n"
    rows = []
    for name, each in Settings.model_fields.items():
        default = each.default
        if isinstance(default, timedelta):
            default = format_duration(default)
        rows.append(
            [f"`{PREFIX}{name.upper()}`", "" if default in (None, "") else f"`{default}`", each.description or ""]
        )
    rows.insert(0, ["`SERINUS_PLATFORM`", "", "Where the engines are: YAML, or the path of a file that holds it."])
    yield from _table(["variable", "default", "meaning"], rows)
    yield "\n## Metrics\n"
    found = list(_families(Metrics().registry))
    yield from _table(["name", "type", "meaning"], sorted(found))


def _errors() -> Iterator[str]:
    yield "# Errors and exit codes\n"
    yield "Every error that Serinus raises on purpose says what happened, where, and what to do about it. On the"
    yield "command line it is one message on standard error; the exit code tells a script which kind it was.\n"
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SerinusError)]
    rows = [[f"`{each.__name__}`", _parent(each), str(each.exit_code), (each.__doc__ or "").strip()] for each in kinds]
    yield from _table(["error", "is a", "exit code", "meaning"], rows)
    yield "Exit code 1 is kept for an answer that is a plain no, such as a candidate refused by the gate."


def _parent(kind: type) -> str:
    return f"`{kind.__bases__[0].__name__}`"


def _table(head: list[str], rows: Any) -> Iterator[str]:
    yield _row(head)
    yield "|" + "---|" * len(head)
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
