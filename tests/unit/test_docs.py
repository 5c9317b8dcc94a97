"""Documentation that follows from the code is current, and what pages point at exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", ".git", "node_modules", "build", "dist", ".pytest_cache"}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The generator, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("serinus_docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.md") if not SKIPPED & set(path.relative_to(ROOT).parts))


def test_generated_files_are_current(generate: ModuleType) -> None:
    assert [str(path) for path in generate.outdated()] == [], "run: make docs"


def test_every_field_and_verb_is_documented(generate: ModuleType) -> None:
    spec = (ROOT / "docs/reference/spec.md").read_text(encoding="utf-8")
    for field in ("spec.windows.holdout", "spec.features.views.*.onStale", "spec.training.parameters"):
        assert f"`{field}`" in spec
    cli = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    for verb in ("init", "validate", "schema"):
        assert f"## serinus {verb}\n" in cli


def test_every_verb_has_an_example() -> None:
    cli = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    sections = cli.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections if "Example: `" not in section] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_decisions_are_numbered_and_listed() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    listed = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    assert [path.name for path in decisions if path.name not in listed] == []


def test_requirements_are_pinned_with_hashes_and_name_no_address() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        pinned = re.findall(r"^([A-Za-z0-9._-]+)==[^ ]+ (?:; .*)?\\$", text, re.MULTILINE)
        loose = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line) and not line.endswith("\\")]
        assert pinned, path.name
        assert loose == [], path.name
        assert text.count("--hash=sha256:") >= len(pinned), path.name


def test_what_images_get_is_what_is_tested() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9._-]+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    for image in ("train.txt", "serve.txt", "operator.txt"):
        assert pins(image) <= pins("dev.txt"), image
