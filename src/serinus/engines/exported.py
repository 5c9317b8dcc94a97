"""Models as torch.export programs: written and read without pickle, and giving each row the same answer in any batch.

Matrix kernels differ with the number of rows, and so do the last bits of what they give: a row alone and the same row
among others would get different answers. So rows always go through the program in blocks of `BLOCK`, the last one
padded: every call has one shape, and a row's answer depends on nothing but the row.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from serinus.core.errors import IntegrityError, InvalidInput
from serinus.engines.exported_archive import pack, read_members, without_code
from serinus.engines.exported_graph import Program, read_program
from serinus.engines.files import replacing

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from serinus.core.signature import Signature

BLOCK = 64
"""Rows of one call. A multiple of 32, so that vectorised kernels have no scalar remainder."""

_UNREADABLE = (ValueError, LookupError, TypeError, RuntimeError, AttributeError)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block.

    Modules of tabular models are too small to share: a second thread mostly waits, spins at every barrier when another
    process wants its core, and makes results depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class NamedColumns(torch.nn.Module):
    """A project's module behind the two arrays that `Signature.encode` makes."""

    def __init__(self, module: torch.nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.numbers = tuple(column.name for column in signature.numbers)
        self.categories = tuple(column.name for column in signature.categories)

    def columns(self, numbers: torch.Tensor, categories: torch.Tensor) -> dict[str, torch.Tensor]:
        """The named columns of `numbers` float32 `[n, k]` and `categories` int64 `[n, c]`, each of shape `[n]`."""
        named = dict(zip(self.numbers, numbers.unbind(1), strict=True)) if self.numbers else {}
        if self.categories:
            named.update(zip(self.categories, categories.unbind(1), strict=True))
        return named

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Logits of shape `[n]`."""
        logits: torch.Tensor = self.module(self.columns(numbers, categories))
        return logits


def export_module(module: NamedColumns) -> ExportedProgram:
    """Export for any number of rows, in evaluation mode.

    Raises:
        InvalidInput: the module cannot be exported, or does not give one logit a row.
    """
    numbers = torch.zeros(3, len(module.numbers), dtype=torch.float32)
    categories = torch.zeros(3, len(module.categories), dtype=torch.int64)
    rows = torch.export.Dim("rows", min=1)
    module = module.eval()
    with torch.no_grad():
        shape = tuple(module(numbers, categories).shape)
    if shape != (3,):
        raise InvalidInput(
            f"the project's module gave shape {list(shape)} for 3 rows", hint="forward must give one logit a row: [n]"
        )
    try:
        program = torch.export.export(module, (numbers, categories), dynamic_shapes=({0: rows}, {0: rows}))
    except Exception as error:  # torch.export raises whatever the module's code and the tracer raise
        raise InvalidInput(f"the project's module cannot be exported: {error}") from error
    _simplify(program)
    return program


def save_exported(program: ExportedProgram, path: Path) -> None:
    """Write the program atomically, without example inputs (torch would pickle them), source lines or times.

    Raises:
        InvalidInput: the program needs something that `load_exported` refuses, such as a custom operator.
    """
    buffer = io.BytesIO()
    program.example_inputs = None
    torch.export.save(program, buffer)
    try:
        members = without_code(buffer.getvalue())
        read_program(members)
    except (*_UNREADABLE, IntegrityError) as error:
        raise InvalidInput(
            f"the project's module exports to something that cannot be served: {error}",
            hint="use plain tensor operations on float and integer tensors",
        ) from error
    with replacing(path) as part:
        part.write_bytes(pack(members))


def load_exported(path: Path) -> ExportedModel:
    """Read what `save_exported` wrote; no pickle, library or source code in it is ever run.

    Raises:
        NotFound: there is no such file.
        IntegrityError: the file is damaged, or holds something other than plain tensors and arithmetic.
    """
    members = read_members(path)
    try:
        return ExportedModel(read_program(members))
    except _UNREADABLE as error:
        raise IntegrityError(f"{path} is not a whole model: {error!r}", hint="fetch or train it again") from error


class ExportedModel:
    """A loaded model. `number_columns` and `category_columns` are the widths of its two inputs."""

    def __init__(self, program: Program) -> None:
        self.number_columns = program.number_columns
        self.category_columns = program.category_columns
        self._forward = program.forward
        self._tensors = program.tensors

    def __call__(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Logits `[n]` of `numbers` float32 `[n, k]` and `categories` int64 `[n, c]`, each row's own.

        Raises:
            InvalidInput: the arrays have another shape or type than the model was trained with.
        """
        return self._run(numbers, categories, _as_it_is)

    def probabilities(self, numbers: NDArray[np.float32], categories: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities `[n]` of rows encoded by `Signature.encode`, the same in training and in serving."""
        probability = self._run(torch.from_numpy(numbers), torch.from_numpy(categories), _probability)
        found: NDArray[np.float64] = probability.numpy()
        return found

    def _run(
        self, numbers: torch.Tensor, categories: torch.Tensor, finish: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """`finish(logits)` of each row, one call of the program a block; the last block is padded with zeros."""
        self._check(numbers, categories)
        rows = len(numbers)
        with torch.inference_mode():
            # Copies, as kernels may also differ by the alignment and the strides of the caller's memory.
            padded = max(1, -(-rows // BLOCK)) * BLOCK
            left = numbers.new_zeros(padded, self.number_columns)
            right = categories.new_zeros(padded, self.category_columns)
            left[:rows], right[:rows] = numbers, categories
            if padded == BLOCK:
                return finish(self._forward(*self._tensors, left, right)[0])[:rows]
            pairs = zip(left.split(BLOCK), right.split(BLOCK), strict=True)
            return torch.cat([finish(self._forward(*self._tensors, *pair)[0]) for pair in pairs])[:rows]

    def _check(self, numbers: torch.Tensor, categories: torch.Tensor) -> None:
        for name, found, width, dtype in (
            ("numbers", numbers, self.number_columns, torch.float32),
            ("categories", categories, self.category_columns, torch.int64),
        ):
            if found.ndim != 2 or found.shape[1] != width or found.dtype != dtype:
                raise InvalidInput(
                    f"the model takes {name} of shape [n, {width}] and type {dtype}, "
                    f"not {list(found.shape)} and {found.dtype}"
                )
        if len(numbers) != len(categories):
            raise InvalidInput(f"numbers have {len(numbers)} rows but categories {len(categories)}")


def _as_it_is(logits: torch.Tensor) -> torch.Tensor:
    return logits


def _probability(logits: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(logits.double())


def _simplify(program: ExportedProgram) -> None:
    """Drop assertions on types and idle dropout; replace a stack of all columns of an input, in order, by the input.

    A module that stacks its named columns again would pay one small tensor a column and call otherwise. Left alone
    where the module writes into a tensor in place, as that could then be the caller's.
    """
    aten, graph = torch.ops.aten, program.graph
    for node in graph.find_nodes(op="call_function", target=aten._assert_tensor_metadata.default):
        graph.erase_node(node)
    for node in graph.find_nodes(op="call_function", target=aten.dropout.default):
        if node.args[2:] != (False,):
            raise InvalidInput("the module drops values at random also in evaluation", hint="use torch.nn.Dropout")
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    if any(_writes(node.target) for node in graph.nodes if node.op == "call_function"):
        return
    for node in list(graph.find_nodes(op="call_function", target=aten.stack.default)):
        source = _whole_input(node)
        if source is not None and node.args[1:] in ((1,), (-1,)):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _whole_input(stack: Any) -> Any:
    """The input whose columns, all and in order, the node stacks; None if it stacks anything else."""
    parts = stack.args[0]
    sources = {part.args[0] for part in parts if part.target is operator.getitem}
    if len(sources) != 1:
        return None
    unbind = sources.pop()
    if unbind.target is not torch.ops.aten.unbind.int or unbind.args[1:] != (1,):
        return None
    whole = len(parts) == unbind.args[0].meta["val"].shape[1]
    in_order = all(part.args == (unbind, position) for position, part in enumerate(parts))
    return unbind.args[0] if whole and in_order else None


def _writes(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and schema.is_mutable and target is not torch.ops.aten.detach_.default
