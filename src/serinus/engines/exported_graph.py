"""Read an exported program's graph and tensors without torch.export.

`torch.export.load` imports torch's compilers, seconds of CPU for what a predictor never uses, and trusts the file: it
unpickles, evaluates sizes as Python and calls any function that a node names. A model is a list of tensor operators
with plain arguments, which is quickly read. Nothing in the file is evaluated and no name in it reaches generated code;
what is called are torch's own operators, those that `exported_archive` allows.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from serinus.engines.exported_archive import CONFIGS, GRAPH

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_FORMATS = {1: torch.contiguous_format, 4: torch.preserve_format}
_STRIDED = 7
_KEYWORD = 2


@dataclass(frozen=True)
class Program:
    """A loaded graph: `forward(*tensors, numbers, categories)` gives `(logits,)`."""

    forward: Callable[..., tuple[torch.Tensor]]
    tensors: tuple[torch.Tensor, ...]
    number_columns: int
    category_columns: int


def read_program(members: Mapping[str, bytes]) -> Program:
    """Build the program from checked members (see `exported_archive.read_members`).

    Raises:
        ValueError, LookupError, TypeError, RuntimeError: the members contradict one another, or the graph needs
            something that a model of rows has no use for, such as control flow.
    """
    module = json.loads(members[GRAPH])["graph_module"]
    if len(module["signature"]["output_specs"]) != 1:
        raise ValueError("the graph gives more than logits")
    reader = _Reader(module["graph"])
    tensors = _tensors(members)
    held, users = [], []
    for spec in module["signature"]["input_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            users.append(content["arg"]["as_tensor"]["name"])
        else:
            held.append(tensors[content[f"{kind}_name"]])
    if len(users) != 2 or reader.inputs[-2:] != users or len(reader.inputs) != len(held) + 2:
        raise ValueError("the graph does not take numbers and categories")
    widths = [int(module["graph"]["tensor_values"][name]["sizes"][1]["as_int"]) for name in users]
    return Program(reader.compile(), tuple(held), *widths)


class _Reader:
    """Turns the file's graph into an fx graph node by node; values are found by the file's names, code has ours."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.graph = fx.Graph()
        self.inputs = [item["as_tensor"]["name"] for item in graph["inputs"]]
        self.values = {name: self.graph.placeholder(f"x{place}") for place, name in enumerate(self.inputs)}
        for node in graph["nodes"]:
            self._node(node)
        (result,) = graph["outputs"]
        self.graph.output((self.values[result["as_tensor"]["name"]],))

    def compile(self) -> Callable[..., tuple[torch.Tensor]]:
        forward: Callable[..., tuple[torch.Tensor]] = fx.GraphModule(torch.nn.Module(), self.graph).forward
        return forward

    def _node(self, node: Mapping[str, Any]) -> None:
        positional, named = [], {}
        for item in node["inputs"]:
            if item["kind"] == _KEYWORD:
                named[item["name"]] = self._argument(item["arg"])
            else:
                positional.append(self._argument(item["arg"]))
        result = self.graph.call_function(_function(node["target"]), tuple(positional), named)
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self._keep(outputs[0], result)
            return
        parts = [{"as_tensor": item} for item in outputs[0]["as_tensors"]] if len(outputs) == 1 else outputs
        for place, part in enumerate(parts):
            self._keep(part, self.graph.call_function(operator.getitem, (result, place)))

    def _keep(self, output: Mapping[str, Any], value: fx.Node) -> None:
        ((kind, content),) = output.items()
        if kind != "as_none":
            self.values[content["name" if kind == "as_tensor" else "as_name"]] = value

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, content),) = argument.items()
        if kind in ("as_tensors", "as_optional_tensors"):
            return [self._argument({"as_tensor": item} if kind == "as_tensors" else item) for item in content]
        if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats"):
            return [self._argument({kind[:-1]: item}) for item in content]
        if kind in ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
            ((form, value),) = content.items()
            return self.values[value] if form == "as_name" else self._argument({form: value})
        return self.values[content["name"]] if kind == "as_tensor" else _PLAIN[kind](content)


def _device(content: Mapping[str, Any]) -> torch.device:
    if content["type"] != "cpu":
        raise ValueError(f"the graph needs a device {content['type']}")
    return torch.device("cpu")


def _layout(content: int) -> torch.layout:
    if content != _STRIDED:
        raise ValueError("the graph needs a sparse layout")
    return torch.strided


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_int": int,
    "as_ints": lambda items: [int(item) for item in items],
    "as_float": float,
    "as_floats": lambda items: [float(item) for item in items],
    "as_bool": bool,
    "as_bools": lambda items: [bool(item) for item in items],
    "as_string": str,
    "as_scalar_type": _DTYPES.__getitem__,
    "as_memory_format": _FORMATS.__getitem__,
    "as_layout": _layout,
    "as_device": _device,
}


def _function(target: str) -> Callable[..., Any]:
    """The operator of an allowed name: `_operator.name` or `torch.ops.aten.name.overload`."""
    if target.startswith("_operator."):
        found: Callable[..., Any] = getattr(operator, target.removeprefix("_operator."))
        return found
    name, overload = target.removeprefix("torch.ops.aten.").split(".")
    overloaded = getattr(getattr(torch.ops.aten, name), overload)
    if not isinstance(overloaded, torch._ops.OpOverload):
        raise TypeError(f"{target} is not an operator")
    function: Callable[..., Any] = overloaded
    return function


def _tensors(members: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by name, in memory of their own that torch has aligned."""
    found = {}
    for config in CONFIGS:
        folder = config.rpartition("/")[0]
        for name, entry in json.loads(members[config])["config"].items():
            meta = entry["tensor_meta"]
            sizes, strides = ([int(item["as_int"]) for item in meta[key]] for key in ("sizes", "strides"))
            content = members[f"{folder}/{entry['path_name']}"]
            if math.prod(sizes) == 0:
                found[name] = torch.empty(sizes, dtype=_DTYPES[meta["dtype"]])
                continue
            flat = torch.frombuffer(bytearray(content), dtype=_DTYPES[meta["dtype"]])
            found[name] = flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
    return found
