"""A model file is a graph and tensors and nothing else, and a row's answer is the row's alone."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._export.serde.schema import ArgumentKind, Layout, MemoryFormat, ScalarType

from examples.flights.model import build
from serinus.core.errors import IntegrityError, InvalidInput, NotFound
from serinus.core.signature import Column, Signature
from serinus.engines import exported_graph as graph
from serinus.engines.exported import (
    BLOCK,
    ExportedModel,
    NamedColumns,
    export_module,
    load_exported,
    save_exported,
)
from serinus.engines.exported_archive import EXAMPLES, GRAPH, pack, read_members
from tests.support_dataset import ToyModule, signature

SIZES = (1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200)
POOL = 400


def _flights() -> tuple[NamedColumns, Signature]:
    columns = [Column(name=f"v__n{place}", kind="number", dtype="Float64", view="v") for place in range(13)]
    columns.insert(4, Column(name="a", kind="category", dtype="String", categories=("x", "y", "z")))
    columns.insert(9, Column(name="b", kind="category", dtype="String", categories=tuple("pqrstu")))
    agreed = signature().model_copy(update={"columns": tuple(columns)})
    torch.manual_seed(0)
    module = NamedColumns(build({"width": 96, "layers": 2}, agreed), agreed)
    numbers, categories = _rows(agreed)
    with torch.no_grad():
        module.module.prepare(module.columns(torch.from_numpy(numbers), torch.from_numpy(categories)))
    return module.eval(), agreed


def _rows(agreed: Signature, rows: int = POOL) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = (rng.standard_cauchy((rows, len(agreed.numbers))) * 30).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    numbers[-1, 0] = np.inf
    sizes = [len(column.categories) + 2 for column in agreed.categories]
    return numbers, np.stack([rng.integers(0, size, rows) for size in sizes], 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[NamedColumns, Signature, Path]:
    module, agreed = _flights()
    path = tmp_path_factory.mktemp("model") / "model.pt2"
    save_exported(export_module(module), path)
    return module, agreed, path


@pytest.fixture(scope="module")
def model(saved: tuple[NamedColumns, Signature, Path]) -> ExportedModel:
    return load_exported(saved[2])


def test_exported_equals_the_module_at_every_size(
    saved: tuple[NamedColumns, Signature, Path], model: ExportedModel
) -> None:
    module, agreed, path = saved
    numbers, categories = (torch.from_numpy(part) for part in _rows(agreed))
    theirs = torch.export.load(str(path)).module()
    for size in SIZES:
        ours = model(numbers[:size], categories[:size])
        with torch.no_grad():
            eager = module(numbers[:size], categories[:size])
            assert torch.equal(theirs(numbers[:size], categories[:size]), eager)
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
        assert ours.shape == (size,)
    assert torch.isfinite(model(numbers, categories)).all()


@pytest.fixture(scope="module")
def alone(saved: tuple[NamedColumns, Signature, Path], model: ExportedModel) -> np.ndarray:
    """What each row of the pool gives in a batch of its own."""
    numbers, categories = _rows(saved[1])
    pairs = [(numbers[row : row + 1], categories[row : row + 1]) for row in range(POOL)]
    return np.concatenate([model.probabilities(*pair) for pair in pairs])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, POOL - 1), min_size=1, max_size=150), order=st.sampled_from("CF"))
def test_a_row_gives_in_any_batch_what_it_gives_alone(
    saved: tuple[NamedColumns, Signature, Path], model: ExportedModel, alone: np.ndarray, rows: list[int], order: Any
) -> None:
    numbers, categories = _rows(saved[1])
    mixed = model.probabilities(np.asarray(numbers[rows], order=order), np.asarray(categories[rows], order=order))
    assert mixed.tobytes() == alone[rows].tobytes()


def test_unaligned_memory_does_not_change_an_answer(model: ExportedModel, saved: tuple[Any, Signature, Path]) -> None:
    numbers, categories = _rows(saved[1], BLOCK)
    room = np.empty(numbers.size + 1, np.float32)[1:].reshape(numbers.shape)
    room[:] = numbers
    assert model.probabilities(room, categories).tobytes() == model.probabilities(numbers, categories).tobytes()


def test_the_callers_arrays_are_left_alone(model: ExportedModel, saved: tuple[Any, Signature, Path]) -> None:
    numbers, categories = _rows(saved[1], BLOCK)
    before = numbers.copy(), categories.copy()
    model.probabilities(numbers, categories)
    np.testing.assert_array_equal(numbers, before[0])
    np.testing.assert_array_equal(categories, before[1])


def test_no_rows_give_no_answers(model: ExportedModel, saved: tuple[Any, Signature, Path]) -> None:
    numbers, categories = _rows(saved[1], 1)
    found = model.probabilities(numbers[:0], categories[:0])
    assert (found.shape, found.dtype) == ((0,), np.float64)


@pytest.mark.parametrize("spoil", ["width", "type", "rows"])
def test_wrong_arrays_are_told(model: ExportedModel, saved: tuple[Any, Signature, Path], spoil: str) -> None:
    numbers, categories = _rows(saved[1], 4)
    if spoil == "width":
        numbers = numbers[:, 1:]
    elif spoil == "type":
        numbers = numbers.astype(np.float64)
    else:
        categories = categories[:3]
    with pytest.raises(InvalidInput, match="numbers"):
        model.probabilities(numbers, categories)


def test_the_file_holds_no_pickle_source_or_path(saved: tuple[Any, Any, Path]) -> None:
    with zipfile.ZipFile(saved[2]) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    assert contents["model/" + EXAMPLES] == b""
    assert not any(
        content.startswith((b"\x80", b"PK")) and name.endswith((".pt", ".pkl")) for name, content in contents.items()
    )
    configs = [json.loads(content) for name, content in contents.items() if name.endswith("_config.json")]
    assert all(entry["use_pickle"] is False for config in configs for entry in config["config"].values())
    assert b".py" not in contents["model/" + GRAPH]


def test_stacked_columns_and_dropout_cost_nothing(saved: tuple[Any, Any, Path]) -> None:
    nodes = json.loads(read_members(saved[2])[GRAPH])["graph_module"]["graph"]["nodes"]
    targets = {node["target"].split(".")[3] for node in nodes}
    assert not targets & {"stack", "unbind", "dropout", "_assert_tensor_metadata"}


def test_equal_modules_give_equal_bytes(saved: tuple[Any, Any, Path], tmp_path: Path) -> None:
    save_exported(export_module(_flights()[0]), tmp_path / "again.pt2")
    assert (tmp_path / "again.pt2").read_bytes() == saved[2].read_bytes()


def test_loading_needs_no_compiler(saved: tuple[Any, Any, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from serinus.engines.exported import load_exported\n"
        f"load_exported(Path({str(saved[2])!r}))\n"
        "sys.exit(any(name in sys.modules for name in ('sympy', 'torch._dynamo', 'torch._inductor', 'pandas')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def _edit_graph(members: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(members[GRAPH])
    change(document)
    members[GRAPH] = json.dumps(document).encode()


def _pickled_weight(members: dict[str, bytes], bomb: bytes) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(members[name])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    members["data/weights/" + first["path_name"]] = bomb
    members[name] = json.dumps(config).encode()


def _set_target(target: str) -> Callable[[dict[str, bytes], bytes], None]:
    return lambda members, _: _edit_graph(
        members, lambda document: document["graph_module"]["graph"]["nodes"][0].update(target=target)
    )


ATTACKS: dict[str, Callable[[dict[str, bytes], bytes], None]] = {
    "example inputs": lambda members, bomb: members.update({EXAMPLES: bomb}),
    "pickled weight": _pickled_weight,
    "legacy weights": lambda members, bomb: members.update({"data/weights/model.pt": bomb}),
    "custom object": lambda members, bomb: members.update({"data/constants/custom_obj_0": bomb}),
    "opaque object": lambda members, bomb: members.update({"data/constants/opaque_obj_0": bomb}),
    "shared library": lambda members, bomb: members.update({"data/aotinductor/model/model.so": bomb}),
    "guards": lambda members, _: _edit_graph(members, lambda document: document.update(guards_code=["exit()"])),
    "size as code": lambda members, _: _edit_graph(
        members,
        lambda document: document["graph_module"]["graph"]["tensor_values"]["numbers"]["sizes"][0]["as_expr"].update(
            expr_str="__import__('os').system('true')"
        ),
    ),
    "name as code": lambda members, _: _edit_graph(
        members,
        lambda document: document["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name="x):\n exit()#"),
    ),
    "function": _set_target("torch.hub.load"),
    "file operator": _set_target("torch.ops.aten.from_file.default"),
    "attribute walk": _set_target("torch.ops.aten.__class__.mro"),
    "builtin": _set_target("_operator.attrgetter"),
    "no such operator": _set_target("torch.ops.aten.nothing.default"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_poisoned_archive_is_refused_and_nothing_runs(
    saved: tuple[Any, Any, Path], tmp_path: Path, attack: str
) -> None:
    members, mark = read_members(saved[2]), tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"x": _Bomb(mark)}, buffer)
    ATTACKS[attack](members, buffer.getvalue() if attack != "opaque object" else pickle.dumps(_Bomb(mark)))
    (tmp_path / "bad.pt2").write_bytes(pack(members))
    with pytest.raises(IntegrityError):
        load_exported(tmp_path / "bad.pt2")
    assert not mark.exists()


def test_damaged_swapped_and_absent_files_are_told(saved: tuple[Any, Any, Path], tmp_path: Path) -> None:
    content = saved[2].read_bytes()
    damaged = bytearray(content)
    damaged[content.index(b"data/weights/weight_0") + 40] ^= 0xFF
    for bad in (content[: len(content) // 2], b"", b"not a zip", bytes(damaged)):
        (tmp_path / "bad.pt2").write_bytes(bad)
        with pytest.raises(IntegrityError, match="not a"):
            load_exported(tmp_path / "bad.pt2")
    with pytest.raises(NotFound, match="there is no model"):
        load_exported(tmp_path / "absent.pt2")


class _Wrong(torch.nn.Module):
    def __init__(self, answer: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.answer(columns)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda columns: columns["hour"][:, None], "one logit a row"),
        (lambda columns: columns["hour"] * float(columns["hour"].sum()), "cannot be exported"),
        (lambda columns: torch.nn.functional.dropout(columns["hour"]), "at random"),
    ],
)
def test_a_module_that_cannot_be_served_is_told(answer: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        export_module(NamedColumns(_Wrong(answer), signature()))


class _Odd(torch.nn.Module):
    """Operators with every sort of argument: sizes, lists, types, constants, several results, writes in place."""

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        numbers = torch.stack([columns["load__mean"], columns["hour"], columns["load__count"]], -1)
        numbers = numbers.nan_to_num(0.0)
        numbers += torch.tensor([0.5, 1.5, 2.5])
        low, _ = numbers.min(1)
        first, second = numbers.split([1, 2], 1)
        shaped = numbers.reshape(columns["hour"].shape[0], 3).to(torch.float64).mean(-1).float()
        onehot = torch.nn.functional.one_hot(columns["carrier"].clamp(max=4), 5).float()
        spread = torch.nn.functional.gelu(onehot @ torch.ones(5, 2), approximate="tanh")
        return low + first.squeeze(1) * second.sum(1) + shaped + spread[:, 0] + float(columns["hour"].dim() > 0)


def test_other_operators_load_as_torch_loads_them(tmp_path: Path) -> None:
    module = NamedColumns(_Odd(), signature())
    save_exported(export_module(module), tmp_path / "odd.pt2")
    loaded, theirs = load_exported(tmp_path / "odd.pt2"), torch.export.load(str(tmp_path / "odd.pt2")).module()
    numbers, categories = (torch.from_numpy(part) for part in _rows(signature(), 70))
    numbers = numbers.nan_to_num(1.0, posinf=5.0)
    before = numbers.clone()
    torch.testing.assert_close(loaded(numbers, categories), theirs(numbers, categories))
    assert torch.equal(numbers, before)


def test_a_module_without_categories_or_with_a_choice_of_columns_works(tmp_path: Path) -> None:
    agreed = signature()
    agreed = agreed.model_copy(update={"columns": agreed.numbers})
    path = tmp_path / "few.pt2"
    save_exported(export_module(NamedColumns(_Wrong(lambda columns: columns["load__mean"] * 2), agreed)), path)
    found = load_exported(path)(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 0, dtype=torch.int64))
    assert found.tolist() == [4.0]


def test_toy_module_serves(tmp_path: Path) -> None:
    save_exported(export_module(NamedColumns(ToyModule(signature(), 4), signature())), tmp_path / "toy.pt2")
    assert load_exported(tmp_path / "toy.pt2").number_columns == 3


def test_our_codes_are_torchs() -> None:
    theirs = {
        ScalarType.BYTE: torch.uint8,
        ScalarType.CHAR: torch.int8,
        ScalarType.SHORT: torch.int16,
        ScalarType.INT: torch.int32,
        ScalarType.LONG: torch.int64,
        ScalarType.HALF: torch.float16,
        ScalarType.FLOAT: torch.float32,
        ScalarType.DOUBLE: torch.float64,
        ScalarType.BOOL: torch.bool,
        ScalarType.BFLOAT16: torch.bfloat16,
    }
    assert theirs == graph._DTYPES
    assert Layout.Strided == graph._STRIDED
    assert ArgumentKind.KEYWORD == graph._KEYWORD
    assert set(graph._FORMATS) == {MemoryFormat.ContiguousFormat, MemoryFormat.PreserveFormat}
