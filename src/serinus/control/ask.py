"""Asks a served model by hand: rows as a person writes them, through the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serinus.core.errors import EngineError, InvalidInput

Row = Mapping[str, Any]


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Read `name=value` words into one row of text values.

    Raises:
        InvalidInput: a word is no such pair, or a name comes twice.
    """
    row: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"{pair!r} is not of the form name=value", hint="such as: serinus predict origin=JFK")
        if name in row:
            raise InvalidInput(f"{name} is given twice")
        row[name] = value
    return row


def convert(value: Any, datatype: str, name: str) -> Any:
    """A value as the column's V2 datatype wants it; text is read as a number or a truth value where that is wanted.

    Raises:
        InvalidInput: it cannot be read so.
    """
    if value is None or (datatype != "BYTES" and value == ""):
        return None
    if not isinstance(value, str):
        return value
    try:
        if datatype == "BOOL":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if datatype.startswith(("INT", "UINT")):
            return int(value)
        if datatype.startswith("FP"):
            return float(value)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{name}: found {value!r}, allowed: a value of type {datatype}") from error
    return value


def tensors(rows: Sequence[Row], inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """V2 input tensors of shape `[n]` for the columns that any row has; null where a row lacks one.

    Args:
        rows: names to values.
        inputs: the model's metadata: `name` and `datatype` of each column.

    Raises:
        InvalidInput: there is no row, or a column that the model does not take.
    """
    if not rows:
        raise InvalidInput("there are no rows to predict")
    datatypes = {each["name"]: each["datatype"] for each in inputs}
    unknown = sorted({name for row in rows for name in row} - set(datatypes))
    if unknown:
        raise InvalidInput(f"the model takes no {', '.join(unknown)}", hint=f"it takes: {', '.join(datatypes)}")
    return [
        {
            "name": name,
            "datatype": datatype,
            "shape": [len(rows)],
            "data": [convert(row.get(name), datatype, name) for row in rows],
        }
        for name, datatype in datatypes.items()
        if any(name in row for row in rows)
    ]


def predict(address: str, model: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Ask the model for each row.

    Returns:
        For each row `probability`, `prediction_id`, `model_version`, and `error` where the row failed.

    Raises:
        InvalidInput: the rows do not fit the model.
        EngineError: the model does not answer, or with an error.
    """
    import httpx

    url = f"{address}/v2/models/{model}"
    try:
        with httpx.Client(timeout=60.0) as client:
            inputs = _content(client.get(url))["inputs"]
            answer = client.post(f"{url}/infer", json={"inputs": tensors(rows, inputs)})
    except httpx.TransportError as error:
        raise EngineError(f"{url} does not answer: {error}", hint="`serinus status` tells what is up") from error
    if answer.status_code in (400, 422):
        raise InvalidInput(f"the model refused: {_error(answer.text)}")
    return _rows(_content(answer))


def _rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = {each["name"]: each["data"] for each in content["outputs"]}
    version = content.get("model_version")
    return [
        {**dict(zip(columns, values, strict=True)), "model_version": version}
        for values in zip(*columns.values(), strict=True)
    ]


def _content(answer: Any) -> dict[str, Any]:
    if answer.status_code != 200:
        raise EngineError(f"{answer.url} answered {answer.status_code}: {_error(answer.text)}")
    content: dict[str, Any] = answer.json()
    return content


def _error(text: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        return text.strip()[:500]
    return str(content.get("error", content) if isinstance(content, dict) else content)
