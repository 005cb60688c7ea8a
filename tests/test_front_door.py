"""The front door: what is public opens late, plug-in authors import from it, and a whole run goes through it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.registry import Method, find
from tests.support.small import PLUGINS, SUITE, small

NAME = 'it\'s "wide"/a b'  # what a user may call a part or a method


def loaded(code: str) -> set[str]:
    """The modules that are there after some code, in a Python of its own."""
    code += "\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_front_door_opens_without_heavy_libraries() -> None:
    heavy = {"torch", "numpy", "pandas", "duckdb", "PIL", "pydantic"}
    assert heavy & loaded("import bench") == set()
    assert "numpy" in loaded("import bench; bench.Noise")  # the control: it does open


def test_a_plug_in_is_declared_without_torch() -> None:
    assert "torch" not in loaded("from bench import Canvas, Noise, Prompt, Value, method, metric")


def test_every_public_name_is_there_and_no_other() -> None:
    for names in bench.PUBLIC.values():
        for name in names.split():
            assert callable(getattr(bench, name))
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        bench.runn  # noqa: B018


def test_a_method_in_a_file_outside_the_project_imports_from_the_front_door(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from bench import Canvas, Noise, Prompt, method\n\n\n"
        '@method("mine", family="control")\n'
        "def mine(prompt: Prompt, canvas: Canvas, noise: Noise, *, level: float = 0.5):\n"
        '    """Noise."""\n'
        "    return level * noise.generator('canvas').random((3, canvas.height, canvas.width))\n"
    )
    found = find("methods", f"{tmp_path / 'mine.py'}@mine")
    assert isinstance(found, Method)
    assert found.resolve({}) == {"level": 0.5}


def test_names_with_quotes_spaces_and_slashes_go_from_generation_to_the_board(tmp_path: Path) -> None:
    quoted = NAME.replace('"', '\\"')
    suite = small(
        tmp_path, SUITE.replace('name = "2to1"', f'name = "{quoted}"').replace('"latent"', f'"{quoted}"'),
        PLUGINS.replace("bench.registry", "bench"),
    )  # fmt: skip
    store = bench.Store(tmp_path / "store")
    results = bench.run(suite, store)
    assert results.complete
    (board,) = bench.boards(store, suite)
    assert board.part == NAME
    assert {line.method: line.made for line in board.lines} == {"plugins.py@grain": 3, NAME: 3}
    assert {n for (_, n) in board.cells} >= {"brightness"}
    for form in ("md", "csv", "html", "tex"):
        assert "grain" in bench.export(store, suite, form)
    assert bench.contact_sheet(store, suite, tmp_path / "sheet.png").is_file()
    again = bench.run(suite, store)
    assert (again.made.made, again.scored.scored) == (0, 0)
