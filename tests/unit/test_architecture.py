"""The house's rules: which way imports point, what core may import, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.api import read_configuration

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "serinus"
SHIPPED = [SOURCE, *(ROOT / name for name in ("components", "pipelines", "serving"))]

CORE_MAY_IMPORT = {"numpy", "pydantic", "pydantic_core", "croniter", "serinus"}
# What core may name in annotations, under TYPE_CHECKING, but never needs at run time.
CORE_MAY_NAME = {"pandas", "torch"}
CORE_MAY_NOT_USE = {"os", "random", "secrets", "socket", "subprocess", "tempfile", "threading", "time", "urllib"}
# Engines' helpers that are no engine: files, processes, ports, sockets, waiting.
SHARED = {"files", "locks", "ports", "processes", "sockets", "waiting"}
# Modules of one engine, PyTorch's exported programs. Others say it by their name, as kfp and kfp_cache do.
ONE_ENGINE = {"exported", "graph", "pt2"}

MODULE_LINES = 400
FUNCTION_LINES = 40
PARAMETERS = 5


def modules(*folders: Path) -> list[Path]:
    """Every Python file below the folders that exist."""
    return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("*.py"))


def name(path: Path) -> str:
    """How a finding calls a file."""
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Each module that is imported, and whether for annotations only."""
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, id(node) in checking) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, id(node) in checking
            yield from ((f"{node.module}.{each.name}", id(node) in checking) for each in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_point_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(read_configuration()["contracts_options"]) >= 2
    # In a process of its own: it silences every logger that is there already, and so those that other tests listen to.
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_core_imports_little() -> None:
    wrong = []
    for path in modules(SOURCE / "core"):
        for module, for_annotations in imported(parsed(path)):
            top = module.partition(".")[0]
            allowed = CORE_MAY_IMPORT | (CORE_MAY_NAME if for_annotations else set())
            if top not in allowed and (top not in sys.stdlib_module_names or top in CORE_MAY_NOT_USE):
                wrong.append(f"{name(path)}: {module}")
    assert wrong == []


def test_core_reads_no_clock() -> None:
    clocks = ("datetime.now(", "datetime.utcnow(", "datetime.today(", "date.today(", "open(", ".read_text(")
    wrong = [
        f"{name(path)}: {clock}"
        for path in modules(SOURCE / "core")
        for clock in clocks
        if clock in path.read_text(encoding="utf-8")
    ]
    assert wrong == []


def test_training_reads_no_clock() -> None:
    clocks = ("datetime.now(", "datetime.utcnow(", "Timestamp.now(", "time.time(")
    wrong = [
        f"{name(path)}: {clock}"
        for path in modules(SOURCE / "training")
        for clock in clocks
        if clock in path.read_text(encoding="utf-8")
    ]
    assert wrong == []


def test_engines_do_not_know_one_another() -> None:
    wrong = []
    for path in modules(SOURCE / "engines"):
        engine = path.stem.partition("_")[0]
        for module, _ in imported(parsed(path)):
            package, _, other = module.partition("serinus.engines.")
            other = other.partition(".")[0]
            if package or not other or other.partition("_")[0] == engine:
                continue
            if other not in SHARED and not {other, path.stem} <= ONE_ENGINE:
                wrong.append(f"{name(path)} imports {other}")
    assert wrong == []


def test_nothing_unpickles() -> None:
    wrong = [
        f"{name(path)}: {module}"
        for path in modules(*SHIPPED)
        for module, _ in imported(parsed(path))
        if module.partition(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    ]
    assert wrong == []


def test_modules_say_why_they_are() -> None:
    assert [name(path) for path in modules(*SHIPPED) if not ast.get_docstring(parsed(path))] == []


def test_modules_stay_small() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(*SHIPPED)}
    assert {path: lines for path, lines in lengths.items() if lines > MODULE_LINES} == {}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, Path]]:
    for path in modules(*SHIPPED):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name(path)}:{node.name}", node, path


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the code, without signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_stay_small() -> None:
    # A pipeline is wiring: one call a step, from top to bottom.
    lengths = {where: body_lines(node) for where, node, path in functions() if path.parent.name != "pipelines"}
    assert {where: lines for where, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_functions_take_few_parameters() -> None:
    many = {}
    for where, node, path in functions():
        # A command's parameters are its options, and a pipeline's or component's its inputs and outputs.
        if path.parent.name in {"cli", "components", "pipelines"}:
            continue
        taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([each for each in taken if each.arg not in {"self", "cls"}])
        if count > PARAMETERS:
            many[where] = count
    assert many == {}
