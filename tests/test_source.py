"""The digest of source moves with what decides a result, and with nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import source, syntax
from bench.errors import UsageError
from bench.registry import find
from bench.source import neighbours, source_digest

METHOD = '''
from bench.registry import method
{imports}

@method("flat", family="control", paper="{paper}")
def flat(prompt, canvas, noise, *, level: float = 0.5):
    """{docstring}"""
    {body}
'''


def plug_in(
    folder: Path, body: str = "return level", imports: str = "", paper: str = "", docstring: str = "One grey."
) -> str:
    """The digest of a plug-in's file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = METHOD.format(body=body, imports=imports, paper=paper, docstring=docstring)
    (folder / "mine.py").write_text(text)
    return source_digest(find("methods", f"{folder / 'mine.py'}@flat").fn)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the files of a package, and gives the digest of one of its functions."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(at: str = "sampler:draw", **files: str) -> str:
        for old in (tmp_path / "outside").rglob("*.py"):
            old.unlink()
        for name, text in files.items():
            path = tmp_path / "outside" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for folder in {tmp_path / "outside", *(p.parent for p in (tmp_path / "outside").rglob("*.py"))}:
            (folder / "__init__.py").touch()
        for name in [n for n in sys.modules if n.partition(".")[0] == "outside"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        source._package.cache_clear()
        module, _, name = at.partition(":")
        return source_digest(getattr(importlib.import_module(f"outside.{module}"), name))

    return made


SAMPLER = """
import math
from outside.helper import level as wanted

SCALE = 2

def draw(x: float) -> float:
    '''A number.'''
    return SCALE * wanted(x)
"""
HELPER = """
OFFSET = 1

def level(x):
    if x < 0:
        raise ValueError(f"expected a positive number, got {x}")
    return x + OFFSET

def other(x):
    return x
"""


def test_a_definition_that_is_reached_counts(package: Callable[..., str]) -> None:
    before = package(sampler=SAMPLER, helper=HELPER)
    assert package(sampler=SAMPLER.replace("SCALE = 2", "SCALE = 3"), helper=HELPER) != before
    assert package(sampler=SAMPLER, helper=HELPER.replace("OFFSET = 1", "OFFSET = 2")) != before
    assert package(sampler=SAMPLER, helper=HELPER.replace("x + OFFSET", "x - OFFSET")) != before
    assert package(sampler=SAMPLER, helper=HELPER) == before


def test_a_definition_that_is_not_reached_does_not_count(package: Callable[..., str]) -> None:
    before = package(sampler=SAMPLER, helper=HELPER)
    assert package(sampler=SAMPLER, helper=HELPER.replace("return x\n", "return -x\n")) == before


def test_what_only_reads_otherwise_does_not_count(package: Callable[..., str]) -> None:
    before = package(sampler=SAMPLER, helper=HELPER)
    comments = SAMPLER.replace("A number.", "Another number.").replace("SCALE = 2", "SCALE = (  # two\n  2)")
    typed = HELPER.replace("def level(x)", "def level(x: int) -> int").replace("got {x}", "and {x} came")
    assert package(sampler=comments, helper=typed) == before
    assert package(sampler=SAMPLER.replace("import math\n", "import os, math\n"), helper=HELPER) == before
    turned = HELPER.replace("OFFSET = 1\n\n", "") + "\nOFFSET = 1\n"
    assert package(sampler=SAMPLER, helper=turned) == before


def test_moving_splitting_and_renaming_files_costs_nothing(package: Callable[..., str]) -> None:
    before = package(sampler=SAMPLER, helper=HELPER)
    moved = SAMPLER.replace("outside.helper", "outside.deep.tools")
    assert package(sampler=moved, deep__tools=HELPER) == before
    assert package("below.sampler:draw", below__sampler=moved, deep__tools=HELPER) == before
    through = SAMPLER.replace("from outside.helper import level as wanted", "from outside import helper")
    through = through.replace("wanted(x)", "helper.level(x)")
    assert package(sampler=through, helper=HELPER) == before
    split = HELPER.replace("OFFSET = 1", "from outside.constants import OFFSET")
    assert package(sampler=SAMPLER, helper=split, constants="OFFSET = 1\n") == before
    assert package(sampler=SAMPLER, helper=split, constants="OFFSET = 5\n") != before
    face = SAMPLER.replace("outside.helper", "outside.face")
    assert package(sampler=face, face="from outside.helper import level\n", helper=HELPER) == before


def test_of_two_helpers_alike_the_one_that_is_called_counts(package: Callable[..., str]) -> None:
    text = "from outside import a, b\n\ndef draw(x):\n    return a.step(x) + 2 * b.step(x)\n"
    up, down = "def step(x):\n    return x + 1\n", "def step(x):\n    return x - 1\n"
    assert package(sampler=text, a=up, b=down) != package(sampler=text, a=down, b=up)


def test_base_classes_nested_names_and_imports_inside_functions_are_followed(package: Callable[..., str]) -> None:
    text = """
    from outside import bases

    class Walk(bases.Base):
        size = 3

        def go(self, x):
            from outside.late import turn

            return [turn(y) for y in x][: self.size]

    def draw(x):
        return Walk().go(x)
    """
    text = "\n".join(line[4:] for line in text.splitlines())
    files = {"bases": "class Base:\n    def stop(self):\n        return 0\n", "late": "def turn(y):\n    return -y\n"}
    before = package(sampler=text, **files)
    assert package(sampler=text, **{**files, "bases": files["bases"].replace("0", "1")}) != before
    assert package(sampler=text, **{**files, "late": files["late"].replace("-y", "+y")}) != before
    assert package(sampler=text.replace("size = 3", "size = 4"), **files) != before


def test_statements_that_define_nothing_count_with_their_module(package: Callable[..., str]) -> None:
    registry = HELPER + "\nKNOWN = {}\nKNOWN['level'] = other\n"
    assert package(sampler=SAMPLER, helper=registry) != package(sampler=SAMPLER, helper=HELPER)


def test_a_local_name_is_not_taken_for_a_global_one(package: Callable[..., str]) -> None:
    text = SAMPLER.replace("def draw(x: float)", "def draw(x: float, other=0)").replace("wanted(x)", "wanted(other)")
    text = text.replace("level as wanted", "level as wanted, other")
    before = package(sampler=text, helper=HELPER)
    assert package(sampler=text, helper=HELPER.replace("return x\n", "return -x\n")) == before


def test_a_method_in_a_folder_below_sees_the_projects_helpers() -> None:
    """Whatever package a sampler is in, what it draws on of ``methods`` is part of it."""
    from methods.multidiffusion import multidiffusion

    files = {path.name for path, _ in source.reached(multidiffusion.fn)}
    assert {"multidiffusion.py", "windows.py", "canvas.py"} <= files


# -- plug-ins


def test_the_same_plug_in_in_two_folders_is_one_method(tmp_path: Path) -> None:
    assert plug_in(tmp_path / "a") == plug_in(tmp_path / "b") != plug_in(tmp_path / "c", "return 2 * level")


def test_papers_and_docstrings_of_a_plug_in_do_not_count(tmp_path: Path) -> None:
    assert plug_in(tmp_path / "a") == plug_in(tmp_path / "b", paper="Somebody, 2026", docstring="A grey.")


def test_a_method_edited_in_its_file_is_another_method(tmp_path: Path) -> None:
    digests = [plug_in(tmp_path, body) for body in ("return level", "return -level", "return level")]
    assert digests[0] == digests[2] != digests[1]


def test_a_plug_in_that_uses_the_projects_helpers_changes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, imports = "return windows.merge(level)", "from methods.shared import windows"
    before = plug_in(tmp_path, body, imports)
    module = syntax.parse(
        Path(importlib.import_module("methods.shared.windows").__file__ or ""), "methods.shared.windows"
    )
    text, refs = module.read("merge")
    monkeypatch.setitem(module._reads, "merge", (text + "# zeros", refs))
    assert plug_in(tmp_path, body, imports) != before


def test_a_plug_in_changes_with_the_file_beside_it_and_runs_what_it_is_known_by(tmp_path: Path) -> None:
    (tmp_path / "tint.py").write_text("def tint(x):\n    return x\n")
    text, imports = "return tint(level)", "from tint import tint"
    try:
        first = plug_in(tmp_path, text, imports)
        ref = f"{tmp_path / 'mine.py'}@flat"
        assert find("methods", ref).fn(None, None, None, level=0.5) == 0.5
        (tmp_path / "tint.py").write_text("def tint(x):\n    return -x\n")
        assert plug_in(tmp_path, text, imports) != first
        assert find("methods", ref).fn(None, None, None, level=0.5) == -0.5
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("tint", None)


def test_two_plug_ins_with_neighbours_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    try:
        for folder, sign in (("a", "+"), ("b", "-")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "tone.py").write_text(f"def tone(x):\n    return {sign}x\n")
        plug_in(tmp_path / "a", "return tone(level)", "from tone import tone")
        with pytest.raises(UsageError, match=r"imports 'tone', which is .*another module of that name came first"):
            plug_in(tmp_path / "b", "return tone(level)", "from tone import tone")
    finally:
        sys.path[:] = [p for p in sys.path if not p.startswith(str(tmp_path))]
        sys.modules.pop("tone", None)


def test_neighbours_are_found_through_each_other_and_the_projects_own_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "shades").mkdir()
    (tmp_path / "shades" / "__init__.py").write_text("from . import dark\n")
    (tmp_path / "shades" / "dark.py").write_text("import bench.types\nimport numpy\n")
    (tmp_path / "mine.py").write_text("import shades\nfrom bench.registry import method\n")
    assert set(neighbours(tmp_path / "mine.py")) == {"shades", "shades.dark"}


def test_a_function_without_a_file_is_refused() -> None:
    scope: dict[str, Any] = {"__name__": "typed_in"}
    exec("def flat(prompt, canvas, noise): return 0", scope)
    with pytest.raises(UsageError, match=r"typed_in\.flat has no Python file.*write it into a file"):
        source_digest(scope["flat"])


def test_a_digest_does_not_depend_on_what_is_loaded() -> None:
    code = "from bench.source import source_digest; from methods.multidiffusion import multidiffusion as m; "
    code += "print(source_digest(m.fn))"
    loaded = "import methods.backbones.tiny.stable_diffusion, methods.backbones.identity, methods.direct; "
    runs = [subprocess.run([sys.executable, "-c", c], capture_output=True, text=True) for c in (code, loaded + code)]
    assert runs[0].stdout.strip()
    assert runs[0].stdout == runs[1].stdout


def test_where_a_definition_named_in_a_string_lies_does_not_count(package: Callable[..., str]) -> None:
    def text(place: str) -> str:
        return f"ROWS = {{'dino': {place!r}}}\ndef draw():\n    return ROWS"

    before = package(sampler=text("bench.extractors.timm:Timm"))
    assert package(sampler=text("bench.elsewhere:Timm")) == before
    assert package(sampler=text("bench.extractors.clip:Clip")) != before
    assert package(sampler=text("elsewhere.networks:Timm")) != before


def test_a_package_that_shows_its_own_modules_is_followed_into_them(package: Callable[..., str]) -> None:
    files = {
        "house____init__": "from outside.house import room",
        "sampler": "from outside import house\ndef draw():\n    return house.room.grey()",
    }
    before = package(**files, house__room="def grey():\n    return 0.5")
    assert package(**files, house__room="def grey():\n    return 0.6") != before
