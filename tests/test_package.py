"""What a built package carries: the data that stands at the top of the repository comes along."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bench.analysis import claims
from bench.errors import UsageError
from bench.prompts import adopt, sets

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def carried(package: str, patterns: list[str]) -> set[Path]:
    """The files of a package that ``package-data`` takes; none if the package is not found by ``include``."""
    if package not in SETUPTOOLS["packages"]["find"]["include"]:
        return set()
    folder = ROOT.joinpath(*package.split("."))
    return {p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}


@pytest.mark.parametrize(
    ("package", "folder"), [("prompts", sets.ROOT), ("results.published", claims.FOLDER)], ids=lambda v: str(v)[-7:]
)
def test_a_package_carries_every_file_of_a_folder_that_the_code_reads(package: str, folder: Path) -> None:
    patterns = SETUPTOOLS["package-data"][package]
    files = {p for p in folder.rglob("*") if p.is_file()}
    assert len(files) > 5
    assert carried(package, patterns) == files
    assert carried(package, patterns[:-1]) != files


def test_the_code_looks_for_data_beside_itself_as_a_package_lays_it_out() -> None:
    beside = Path(sets.__file__).parents[2]
    assert beside / "prompts" == sets.ROOT
    assert beside / "results" / "published" == claims.FOLDER


def test_an_installed_package_keeps_no_sets_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("A narrow boat moored in the reeds\n")
    (tmp_path / "prompts").mkdir()
    monkeypatch.setattr(adopt, "ROOT", tmp_path / "prompts")
    with pytest.raises(UsageError, match="--root or SCROLLBENCH_PROMPTS"):
        adopt.adopt(tmp_path / "list.txt", "mine", root=tmp_path / "prompts")
    (tmp_path / "pyproject.toml").touch()  # a checkout
    assert len(adopt.adopt(tmp_path / "list.txt", "mine", root=tmp_path / "prompts").prompts) == 1
