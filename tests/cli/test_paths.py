"""A store, a report and files may lie under any name that the file system takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from bench.cli.app import main
from tests.support.small import write_suite

ODD = ["-dash 'a' \"b\"", "100%41#é?x=2&;{b}[1]*", "md:日本\\n$HOME~`"]


def call(*words: object) -> Any:
    said = CliRunner().invoke(main, [str(w) for w in words])
    assert said.exit_code == 0, (words, said.output, said.exception)
    return said


@pytest.mark.parametrize("name", ODD)
def test_every_door_of_a_store_opens_under_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_suite(tmp_path / name)
    store, suite = f"--store={name}/store", f"--suite={name}/small.toml"
    ran = json.loads(call("run", store, suite, f"--report={name}/report", "--json").stdout)
    assert Path(ran["index"]).is_file()
    assert Path(ran["contact_sheet"]).is_file()
    (image, path) = next((p.stem, p) for p in sorted(Path(name, "store").rglob("*.png")) if len(p.stem) == 24)
    for words in (["board", suite], ["board", suite, "--format", "html"], ["sql", "from leaderboard"],
                  ["compare", "latent", "plugins.py@grain", suite], ["store", "verify"], ["store", "prune"],
                  ["store", "index"], ["store", "path"],
                  ["store", "copy", image, f"--out={name}/copy.png"],
                  ["store", "export", f"--out={name}/all.tar"]):  # fmt: skip
        call(*words, store)
    assert Path(name, "copy.png").read_bytes() == path.read_bytes()
    call("store", "import", f"{'./' if name.startswith('-') else ''}{name}/all.tar", f"--store={name}/other")
    rows = [json.loads(call("sql", "select method, value, n from leaderboard order by all", "--json",
                            f"--store={name}/{s}").stdout) for s in ("store", "other")]  # fmt: skip
    assert rows[0] == rows[1] != []
    links = re.findall(r'(?:href|src)="([^"#:]+)"', Path(name, "report", "index.html").read_text())
    assert links
    assert all(Path(name, "report", unquote(link)).exists() for link in links)
