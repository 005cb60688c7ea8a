"""The house: packages in one order, no circles, few imports inside functions, short files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNEL = (
    "version", "errors", "device", "lazy", "types", "returned", "ids", "syntax", "source", "reading", "noise",
    "plugins", "registry", "views", "progress", "toml",
)  # fmt: skip
ORDER = (  # a package imports only itself and what stands before it
    *(f"bench.{name}" for name in KERNEL),
    "bench.stats", "bench.store", "bench.extractors", "bench.prompts", "bench.metrics", "methods", "bench.world",
    "bench.suites", "bench.pipeline", "bench.analysis", "bench.report", "bench.catalogue", "bench", "bench.cli",
)  # fmt: skip
PAPERS = "methods"  # one file a paper, however many there are
LINES, FILES, INSIDE = 400, 16, 15


@dataclass(frozen=True)
class Import:
    """One import of a module of this project by another; ``line`` is its text."""

    source: str
    target: str
    inside: bool
    line: str


def modules(root: Path) -> dict[str, Path]:
    """Module name -> file, of both packages."""
    files = (p for top in ("bench", "methods") for p in (root / top).rglob("*.py"))
    names = {}
    for path in files:
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(root: Path) -> list[Import]:
    """Every import between modules of this project, inside functions and for type checkers too."""
    have = modules(root)
    return [found for name, path in have.items() for found in _of(name, path.read_text(encoding="utf-8"), have)]


def _of(source: str, text: str, have: dict[str, Path]) -> Iterator[Import]:
    lines = text.splitlines()
    tree = ast.parse(text)
    within = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in have else base for a in node.names]
        for target in dict.fromkeys(targets):
            if target in have and target != source:
                yield Import(source, target, id(node) in within, lines[node.lineno - 1].strip())


def floor(module: str) -> int:
    """Place of a module in the order: of the longest name that holds it."""
    homes = [h for h in ORDER if module == h or (module.startswith(f"{h}.") and h != "bench")]
    assert homes, f"{module} is in no package of the order: give it a room"
    return ORDER.index(max(homes, key=len))


def upward(found: list[Import]) -> list[str]:
    """The imports of something that stands later in the order."""
    return [f"{i.source} -> {i.target}" for i in found if floor(i.target) > floor(i.source)]


def circles(found: list[Import]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    after: dict[str, set[str]] = {}
    for i in found:
        after.setdefault(i.source, set()).add(i.target)
    reach: dict[str, set[str]] = {}
    for start in after:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in after.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        reach[start] = seen
    groups = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach if a in reach[a]}
    return sorted(sorted(g) for g in groups)


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(ROOT)


def test_packages_import_in_one_order(found: list[Import]) -> None:
    assert len(found) > 500  # the walk sees the project
    assert upward(found) == []


def test_no_two_files_import_each_other(found: list[Import]) -> None:
    assert circles(found) == []


def test_no_module_asks_its_own_face(found: list[Import]) -> None:
    own = [f"{i.source} -> {i.target}" for i in found if i.source.startswith(f"{i.target}.") and i.target != "bench"]
    assert own == []


def test_only_the_command_line_comes_in_by_the_front_door(found: list[Import]) -> None:
    assert {i.source.split(".")[1] for i in found if i.target == "bench"} <= {"cli"}


def test_imports_inside_functions_are_few_and_say_why(found: list[Import]) -> None:
    inside = [i for i in found if i.inside]
    assert len(inside) <= INSIDE
    assert [i for i in inside if "# " not in i.line] == []


def test_files_are_short_and_packages_small() -> None:
    files = modules(ROOT)
    assert {n: k for n, p in files.items() if (k := len(p.read_text(encoding="utf-8").splitlines())) > LINES} == {}
    sizes: dict[str, int] = {}
    for name, path in files.items():
        if path.name != "__init__.py":
            package = name.rpartition(".")[0]
            sizes[package] = sizes.get(package, 0) + 1
    assert {p: n for p, n in sizes.items() if n > FILES and p != PAPERS} == {}


def test_a_planted_import_is_seen(tmp_path: Path) -> None:
    for name in ("stats/means", "pipeline/plan", "pipeline/score"):
        path = tmp_path / "bench" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert upward(imports(tmp_path)) == circles(imports(tmp_path)) == []
    (tmp_path / "bench/stats/means.py").write_text("def late():\n    from bench.pipeline.plan import make_plan\n")
    assert upward(imports(tmp_path)) == ["bench.stats.means -> bench.pipeline.plan"]
    assert imports(tmp_path)[0].inside
    (tmp_path / "bench/pipeline/plan.py").write_text("from bench.pipeline.score import score\n")
    (tmp_path / "bench/pipeline/score.py").write_text("from bench.pipeline import plan\n")
    assert circles(imports(tmp_path)) == [["bench.pipeline.plan", "bench.pipeline.score"]]
