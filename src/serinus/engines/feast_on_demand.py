"""On-demand feature views: features that Feast computes from others while a request is answered.

Feast keeps their code in its registry as a pickle, and gives a column other types depending on what else is in the
batch. Here the code is the function's *source*, which becomes a part of the model's signature: a version is served with
the code that it was trained with, whatever the registry holds later, and nothing is unpickled. Training and serving
both call `Transform`, so there is no second implementation; it goes through Feast's own transformation.
"""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import ast
import builtins
import dis
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import Field, OnDemandFeatureView, RequestSource
from feast.feature_view_projection import FeatureViewProjection
from numpy.typing import NDArray

from serinus.core.errors import InvalidData, InvalidInput
from serinus.core.signature import Column, OnDemand
from serinus.engines import feast_definitions as defined

# What code may use beside what it imports and defines itself.
_GIVEN: dict[str, Any] = {"np": np, "numpy": np, "pd": pd, "pandas": pd, "math": math}
_MODES = ("pandas", "python")
Columns = dict[str, NDArray[Any]]


def check(view: OnDemandFeatureView, module: str) -> None:
    """See that a view can be trained on and served.

    Raises:
        InvalidInput: it is of a kind that cannot, or its code needs what the source of the function does not say.
    """
    where = f"{module}: on-demand view {view.name}"
    if view.mode not in _MODES or view.feature_transformation is None or view.aggregations:
        raise InvalidInput(
            f"{where} is not a function of mode {' or '.join(_MODES)}", hint="compute other things in a feature view"
        )
    if view.write_to_online_store:
        raise InvalidInput(f"{where} is written to the online store", hint="take out write_to_online_store")
    if not view.features:
        raise InvalidInput(f"{where} has no schema", hint="list its features as Fields")
    if not view.feature_transformation.udf_string:
        view.feature_transformation.udf_string = _source(view.feature_transformation.udf, where)
    source_of(view.feature_transformation.udf_string, where)


def source_of(text: str, where: str) -> str:
    """The function in a source text, without decorators and annotations.

    Raises:
        InvalidInput: there is none, or it uses a name from outside.
    """
    try:
        functions = [each for each in ast.parse(textwrap.dedent(text)).body if isinstance(each, ast.FunctionDef)]
    except SyntaxError as error:
        raise InvalidInput(f"{where}: its source cannot be read: {error}", hint="write it as a def") from error
    if len(functions) != 1:
        raise InvalidInput(f"{where} is not one function", hint="write it as a def")
    function = functions[0]
    function.decorator_list = []
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    source = ast.unparse(function)
    unknown = sorted(_globals(compile(source, where, "exec")) - set(_GIVEN) - set(dir(builtins)) - {function.name})
    if unknown:
        raise InvalidInput(
            f"{where} uses {', '.join(unknown)}, defined outside of its function",
            hint="import or define it inside: the function alone goes into the model, where pd, np and math are",
        )
    return source


def on_demand(view: OnDemandFeatureView) -> OnDemand:
    """Our value for a registered view, read without its pickle."""
    proto = view.to_proto().spec.feature_transformation.user_defined_function
    inputs = [
        column
        for projection in view.source_feature_view_projections.values()
        for column in defined.projected_columns(projection)
    ]
    inputs += [column for source in view.source_request_sources.values() for column in defined.request_columns(source)]
    return OnDemand(
        name=view.name,
        mode=view.mode,
        singleton=view.singleton,
        inputs=tuple(inputs),
        outputs=tuple(defined.on_demand_columns(view)),
        code=source_of(proto.body_text, f"on-demand view {view.name}"),
    )


class Transform:
    """One on-demand view's code. A row's values do not depend on the rows that it comes with, unless the code does."""

    def __init__(self, spec: OnDemand) -> None:
        """Raises InvalidInput where the code cannot be run."""
        self.spec = spec
        where = f"on-demand view {spec.name}"
        space = dict(_GIVEN)
        exec(compile(source_of(spec.code, where), where, "exec"), space)  # noqa: S102 - the archive's, as its handler
        function = next(each for each in reversed(space.values()) if isinstance(each, FunctionType))
        self._view = OnDemandFeatureView(
            name=spec.name,
            schema=[Field(name=each.feature, dtype=defined.feast_type(each.dtype)) for each in spec.outputs],
            sources=_sources(spec),
            udf=function,
            udf_string=spec.code,
            mode=spec.mode,
            singleton=spec.singleton,
        )

    def apply(self, columns: Mapping[str, NDArray[Any]], rows: int) -> tuple[Columns, dict[int, str]]:
        """Values by column, and what went wrong by row; such a row's values are missing.

        Args:
            columns: the inputs: numbers as floats with NaN, strings as objects with None, where missing.
            rows: length of each.
        """
        arrays = [_array(columns[each.name], each) for each in self.spec.inputs]
        table = pa.table(arrays, names=[each.name for each in self.spec.inputs])
        found = {each.name: _empty(each, rows) for each in self.spec.outputs}
        errors: dict[int, str] = {}
        for group in self._groups(table, rows):
            self._compute(table, group, found, errors)
        return found, errors

    def _groups(self, table: pa.Table, rows: int) -> Iterable[NDArray[np.intp]]:
        """Rows that lack the same integers and booleans: pandas gives a column of them another type as soon as one is
        missing, so that a row would be computed otherwise for its neighbours' sake."""
        if self.spec.singleton:
            return [np.array([row]) for row in range(rows)]
        exact = [each.name for each in self.spec.inputs if not each.dtype.startswith(("Float", "String"))]
        if self.spec.mode == "python" or not exact or not rows:
            return [np.arange(rows)] if rows else []
        lacking = np.column_stack([table[name].is_null().to_numpy() for name in exact])
        _, patterns = np.unique(lacking, axis=0, return_inverse=True)
        return [np.flatnonzero(patterns == each) for each in range(patterns.max() + 1)]

    def _compute(self, table: pa.Table, rows: NDArray[np.intp], found: Columns, errors: dict[int, str]) -> None:
        """Fill in the rows' values; where code fails, halve until the rows are alone that it fails for."""
        try:
            values = self._run(table.take(pa.array(rows)))
        except Exception as error:  # the project's own code may raise anything
            if len(rows) == 1:
                errors[int(rows[0])] = f"{type(error).__name__}: {error}"
                return
            for part in np.array_split(rows, 2):
                self._compute(table, part, found, errors)
            return
        for name, array in values.items():
            found[name][rows] = array

    def _run(self, table: pa.Table) -> Columns:
        answer: Mapping[str, Any] | pa.Table
        if self.spec.mode == "python":
            answer = self._view.transform_dict(table.to_pydict())
        else:
            answer = self._view.transform_arrow(table, full_feature_names=True)
        names = set(answer.column_names if isinstance(answer, pa.Table) else answer)
        values = {}
        for column in self.spec.outputs:
            name = column.name if column.name in names else column.feature
            if name not in names:
                raise InvalidData(f"it gives no {column.feature}")
            got = answer[name]
            given = [got] if self.spec.singleton and not isinstance(got, list) else got
            values[column.name] = _values(given, column)
            if len(values[column.name]) != table.num_rows:
                raise InvalidData(f"it gives {len(values[column.name])} values for {table.num_rows} rows")
        return values


def transform(specs: Iterable[OnDemand], table: pa.Table) -> pa.Table:
    """A table with the columns of on-demand views in addition.

    Raises:
        InvalidData: an input is absent, or the code failed for a row.
    """
    for spec in specs:
        absent = [each.name for each in spec.inputs if each.name not in table.column_names]
        if absent:
            raise InvalidData(
                f"on-demand view {spec.name} reads {', '.join(absent)}", hint="requests must give the request's fields"
            )
        inputs = {each.name: _loose(table[each.name], each) for each in spec.inputs}
        found, errors = Transform(spec).apply(inputs, table.num_rows)
        for row, error in errors.items():
            raise InvalidData(f"on-demand view {spec.name} failed for row {row} and {len(errors) - 1} more: {error}")
        for column in spec.outputs:
            table = table.append_column(column.name, _array(found[column.name], column))
    return table


def _sources(spec: OnDemand) -> list[Any]:
    views: dict[str, list[Field]] = {}
    for column in spec.inputs:
        if column.view is not None:
            views.setdefault(column.view, []).append(Field(name=column.feature, dtype=defined.feast_type(column.dtype)))
    sources: list[Any] = [
        FeatureViewProjection(name=name, name_alias=None, desired_features=[], features=fields)
        for name, fields in views.items()
    ]
    asked = [each for each in spec.inputs if each.view is None]
    if asked:
        fields = [Field(name=each.name, dtype=defined.feast_type(each.dtype)) for each in asked]
        sources.append(RequestSource(name=f"{spec.name}_request", schema=fields))
    return sources


def _array(values: NDArray[Any], column: Column) -> pa.Array:
    """A column in its own type, null where missing."""
    kind = defined.arrow_of(column.dtype)
    if column.kind == "category":
        return pa.array(values, kind)
    numbers = np.asarray(values, dtype=np.float64)
    return pa.array(numbers, pa.float64(), from_pandas=True).cast(kind)


def _values(given: Any, column: Column) -> NDArray[Any]:
    """What code gave, as the column's type allows it."""
    kind = defined.arrow_of(column.dtype)
    found = given if isinstance(given, pa.ChunkedArray) else pa.array(given, from_pandas=True)
    found = found.cast(kind)
    if column.kind == "category":
        return np.array(found.to_pylist(), dtype=object)
    wide: NDArray[Any] = found.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return wide


def _loose(values: pa.ChunkedArray, column: Column) -> NDArray[Any]:
    """A column of a table as the lookup gives it."""
    if column.kind == "category":
        return np.array(values.to_pylist(), dtype=object)
    return np.array(values.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _empty(column: Column, rows: int) -> NDArray[Any]:
    return np.full(rows, None, dtype=object) if column.kind == "category" else np.full(rows, np.nan)


def _globals(code: CodeType) -> set[str]:
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _globals(constant)
    return names


def _source(function: Callable[..., Any], where: str) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise InvalidInput(f"{where}: the source of its function is not known: {error}") from error
