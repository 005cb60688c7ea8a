"""Adopting pictures made elsewhere: manifest, checks before anything is taken, scores and board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.analysis.board import boards
from bench.errors import UsageError
from bench.pipeline.adopt import AdoptResult, adopt, propose
from bench.pipeline.score import score
from bench.store import Store
from bench.store.index import build, query
from bench.suites.suite import Suite
from tests.support.small import small


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return small(tmp_path / "suite")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of 16 x 8 px, one of them a JPEG."""
    made = tmp_path / "theirs"
    made.mkdir()
    for i, name in enumerate(("harbour-seed0.png", "0_reef.png", "dune seed 0.jpg")):
        Image.fromarray(np.full((8, 16, 3), 40 * i + 20, np.uint8)).save(made / name)
    return made


def manifest(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("file,prompt_id,seed\n" + text)
    return path


ALL = "harbour-seed0.png,harbour,0\n0_reef.png,reef,0\ndune seed 0.jpg,dune,0\n"


def test_adopted_pictures_are_scored_and_stand_on_the_board(folder: Path, suite: Suite, store: Store) -> None:
    assert adopt(folder, suite, "theirs-v2", manifest(folder, ALL), store) == AdoptResult("theirs-v2", 3, 0)
    result = score(suite, store)
    assert result.scored == 3
    build(store)
    found = query(store, "select method, prompt_id, value from pairs where metric = 'brightness' order by prompt_id")[1]
    assert [(m, p, round(v)) for m, p, v in found] == [
        ("theirs-v2", "dune", 100), ("theirs-v2", "harbour", 20), ("theirs-v2", "reef", 60),
    ]  # fmt: skip
    (board,) = boards(store, suite)
    (line,) = [line for line in board.lines if line.method == "theirs-v2"]
    assert (line.wanted, line.made) == (3, 3)


def test_another_size_of_the_same_aspect_ratio_is_resized_where_asked_for_recorded_and_marked(
    folder: Path, suite: Suite, store: Store
) -> None:
    Image.fromarray(np.full((16, 32, 3), 77, np.uint8)).save(folder / "0_reef.png")
    with pytest.raises(UsageError, match=r"is 32x16, part 2to1 is 16x8: .*--resize does it"):
        adopt(folder, suite, "theirs", manifest(folder, ALL), store)
    adopt(folder, suite, "theirs", manifest(folder, ALL), store, resize=True)
    images = {r["prompt_id"]: r for r in store.ledger().images.values()}
    assert images["reef"]["flags"] == ["adopted", "resized", "flat"]
    assert images["reef"]["recipe"]["params"]["resized_from"] == "32x16"
    assert store.read_image(images["reef"]["image_id"]).shape == (8, 16, 3)
    assert "resized_from" not in images["harbour"]["recipe"]["params"]
    score(suite, store)
    build(store)
    assert query(store, "select distinct provenance from leaderboard")[1] == [("adopted from lossy files",)]
    Image.fromarray(np.full((16, 30, 3), 77, np.uint8)).save(folder / "0_reef.png")
    with pytest.raises(UsageError, match=r"is 30x16, .* scores$"):
        adopt(folder, suite, "others", manifest(folder, ALL), store, resize=True)


def test_what_is_told_of_a_closed_model_is_kept(folder: Path, suite: Suite, store: Store) -> None:
    told = folder / "manifest.csv"
    told.write_text("file,prompt_id,model,date,cost_usd\n0_reef.png,reef,wide-1,2026-01-31,0.19\n")
    adopt(folder, suite, "api", told, store)
    (image,) = store.ledger().images.values()
    about = {"model": "wide-1", "date": "2026-01-31", "cost_usd": "0.19"}
    assert image["recipe"]["params"] == {"image_id": image["image_id"], **about}
    for cell, said in (("31.1.2026,0.19", "column date: .*2026-01-31"), ("2026-01-31,cheap", "column cost_usd")):
        told.write_text(f"file,prompt_id,model,date,cost_usd\n0_reef.png,reef,wide-1,{cell}\n")
        with pytest.raises(UsageError, match=said):
            adopt(folder, suite, "api", told, store)


def test_what_is_told_of_them_is_kept_and_no_more(folder: Path, suite: Suite, store: Store) -> None:
    adopt(folder, suite, "theirs", manifest(folder, ALL), store)
    images = {r["prompt_id"]: r for r in store.ledger().images.values()}
    assert {r["cost"] for r in images.values()} == {None}
    assert {r["recipe"]["method"] for r in images.values()} == {"adopted:theirs"}
    assert images["harbour"]["flags"] == ["adopted", "flat"]
    assert images["dune"]["flags"] == ["adopted", "lossy-source", "flat"]
    assert store.read_image(images["reef"]["image_id"])[0, 0].tolist() == [60, 60, 60]


def test_the_same_manifest_again_changes_nothing_and_another_picture_replaces(
    folder: Path, suite: Suite, store: Store
) -> None:
    told = manifest(folder, ALL)
    adopt(folder, suite, "theirs", told, store)
    before = sorted((store.root / "records").glob("*.jsonl"))
    assert adopt(folder, suite, "theirs", told, store) == AdoptResult("theirs", 0, 3)
    assert sorted((store.root / "records").glob("*.jsonl")) == before
    Image.fromarray(np.full((8, 16, 3), 250, np.uint8)).save(folder / "0_reef.png")
    assert adopt(folder, suite, "theirs", told, store) == AdoptResult("theirs", 1, 2)
    score(suite, store)
    build(store)
    found = query(store, "select value from pairs where metric = 'brightness' and prompt_id = 'reef'")[1]
    assert found == [(250.0,)]


def test_some_of_the_prompts_are_enough(folder: Path, suite: Suite, store: Store) -> None:
    adopt(folder, suite, "theirs", manifest(folder, "0_reef.png,reef,0\n"), store)
    result = score(suite, store)
    assert result.scored == 1
    assert result.waiting == 6  # the suite's own two methods, not the two pictures nobody brought


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0_reef.png,ref,0\n", "line 2, column prompt_id: part 2to1 asks for no prompt 'ref'; did you mean 'reef'"),
        ("nothing.png,reef,0\n", "line 2, column file: no file"),
        ("0_reef.png,reef,7\n", "line 2, column seed: suite small@1 has seeds 0, got '7'"),
        (ALL + "0_reef.png,reef,0\n", "line 5: prompt reef seed 0 is in line 3 already"),
        ("", "no lines below its header"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_taken(
    folder: Path, suite: Suite, store: Store, lines: str, message: str
) -> None:
    with pytest.raises(UsageError, match="nothing was adopted") as caught:
        adopt(folder, suite, "theirs", manifest(folder, lines), store)
    assert message in str(caught.value)
    assert not (store.root / "records").exists()


def test_a_picture_of_another_size_is_refused_with_all_others(folder: Path, suite: Suite, store: Store) -> None:
    Image.fromarray(np.zeros((8, 32, 3), np.uint8)).save(folder / "0_reef.png")
    (folder / "harbour-seed0.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"0_reef\.png is 32x8, part 2to1 is 16x8") as caught:
        adopt(folder, suite, "theirs", manifest(folder, ALL), store)
    assert "harbour-seed0.png" in str(caught.value)
    assert not (store.root / "records").exists()


@pytest.mark.parametrize("label", ["latent", "two words", ""])
def test_a_label_must_be_new_and_plain(folder: Path, suite: Suite, store: Store, label: str) -> None:
    with pytest.raises(UsageError, match="--as needs a name"):
        adopt(folder, suite, label, manifest(folder, ALL), store)


def test_a_manifest_without_its_columns_is_refused(folder: Path, suite: Suite, store: Store) -> None:
    path = folder / "manifest.csv"
    path.write_text("path,prompt\na,b\n")
    with pytest.raises(
        UsageError, match=r"no column 'file'; expected file, prompt_id, seed, part, .*; got path, prompt"
    ):
        adopt(folder, suite, "theirs", path, store)


def test_a_manifest_is_proposed_from_names_and_sizes(folder: Path, suite: Suite, store: Store) -> None:
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "reef-small.png")
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(folder / "reefs.png")
    text, lost = propose(folder, suite)
    assert text.splitlines() == [
        "file,prompt_id,seed,part", "0_reef.png,reef,0,2to1", "dune seed 0.jpg,dune,0,2to1",
        "harbour-seed0.png,harbour,0,2to1",
    ]  # fmt: skip
    assert lost == ["reef-small.png: no part is 9x8", "reefs.png: no id of a prompt is in its name"]
    path = folder / "proposed.csv"
    path.write_text(text)
    assert adopt(folder, suite, "theirs", path, store).adopted == 3


def test_the_command_takes_them_in(folder: Path, suite: Suite, store: Store) -> None:
    from bench.cli.app import main

    told = manifest(folder, ALL)
    common: list[Any] = ["adopt", str(folder), "--suite", str(suite.file), "--store", str(store.root)]
    done = CliRunner().invoke(main, [*common, "--as", "theirs", "--manifest", str(told), "--json"])
    assert done.exit_code == 0, done.output
    assert '"adopted": 3' in done.stdout
    refused = CliRunner().invoke(main, common)
    assert refused.exit_code == 2
    assert "--propose" in refused.output
