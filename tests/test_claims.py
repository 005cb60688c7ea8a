"""Published numbers stay as printed, say where they were read, and are refused by file, line and column when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.claims import COLUMNS, FOLDER, VIA, find_table, read_claims, tables
from bench.claims_ranks import average_ranks, block_ranks, check_ranks
from bench.cli_reproduce import printed
from bench.errors import UsageError
from bench.registry import find
from bench.suite_file import read_suite

SEED = ("panollama", "drspo", "msd", "scrollscape", "scale-dit")
GOLDEN = {
    "DRSPO": "5.726 (3) 0.228 (1) 0.134 (2) 0.275 (1) 0.321 (1) 1.6",
    "DRSPO w/o control": "6.009 (1) 0.136 (4) 0.166 (1) 0.171 (3) 0.320 (2) 2.2",
    "DRSPO w/o DPO": "5.734 (2) 0.220 (2) 0.129 (3) 0.247 (2) 0.320 (2) 2.2",
    "DRSPO with IP-Adapter": "5.564 (4) 0.216 (3) 0.086 (4) -0.058 (4) 0.313 (4) 3.8",
}


def test_a_table_is_printed_with_the_papers_own_strings() -> None:
    (block,) = find_table("drspo:table2").blocks
    rows = printed(block)
    assert {row["method"]: " ".join(list(row.values())[1:]) for row in rows} == GOLDEN
    assert list(rows[0]) == [
        "method", "Aesthetic Score ↑", "HPS v2 ↑", "PickScore ↑ (share)", "ImageReward ↑", "CLIP score ↑ (cosine)",
        "average rank ↓",
    ]  # fmt: skip
    floats = [str(c.number) for c in block.claims]
    assert "0.320" not in floats  # negative control: as numbers the trailing zeros would be gone
    assert any(c.value == "0.320" for c in block.claims)


def test_signs_and_words_are_kept_too() -> None:
    (block,) = find_table("panollama:table1").blocks
    assert [c.value for c in block.column("relative FID").values()] == ["+3.16", "+8.75", "+23.09", "+53.50", "+2.27"]
    hiwave = {c.value: c.number for c in find_table("hiwave:runtime").claims}
    assert hiwave["OOM"] is None


def test_ranks_share_the_better_place_and_averages_follow() -> None:
    (block,) = find_table("drspo:table2").blocks
    assert block_ranks(block)["CLIP score"] == {
        "DRSPO": 1, "DRSPO w/o control": 2, "DRSPO w/o DPO": 2, "DRSPO with IP-Adapter": 4,
    }  # fmt: skip
    lower = block_ranks(find_table("panollama:table1").blocks[0])["LPIPS"]
    assert (lower["PanoLlama"], lower["MultiDiffusion"]) == (1, 5)
    assert average_ranks(block)["DRSPO w/o control"] == pytest.approx((1 + 4 + 1 + 3 + 2) / 5)


def test_printed_ranks_are_checked_and_every_difference_is_named() -> None:
    assert check_ranks(find_table("drspo:table2")) == []
    assert check_ranks(find_table("drspo:table1")) == [
        "PickScore, PixArt: printed rank 5, by the values 4 (tie with SD 3.5 + ESRGAN at 0.092)",
        "average rank, PixArt: printed 3.2, by the values 3.0",
        "HPS v2, DRSPO: rank 1 by the paper's text, 3 by its table",
        "PickScore, DRSPO: rank 2 by the paper's text, 3 by its table",
        "ImageReward, DRSPO: rank 1 by the paper's text, 2 by its table",
    ]


def test_orders_are_the_pairs_whose_numbers_differ() -> None:
    (block,) = find_table("drspo:table2").blocks
    orders = [(o.better, o.worse) for o in block.orders() if o.metric == "CLIP score"]
    assert ("DRSPO", "DRSPO w/o DPO") in orders
    assert len(orders) == 5  # six pairs, one of them a tie
    assert not [o for o in block.orders() if o.metric == "average rank"]
    lower = [(o.better, o.worse) for o in find_table("panollama:table1").blocks[0].orders() if o.metric == "LPIPS"]
    assert ("PanoLlama", "MultiDiffusion") in lower


def test_all_five_papers_are_there_and_each_number_says_how_it_was_read() -> None:
    known = tables()
    assert {ref.partition(":")[0] for ref in known} >= set(SEED)
    assert all(c.via in VIA and c.source for t in known.values() for c in t.claims)
    assert {c.via for c in known["scrollscape:main"].claims} == {"note"}
    assert {c.via for c in known["drspo:table1"].claims} == {"paper"}


@pytest.mark.parametrize("ref", [r for r, t in tables().items() if t.suite])
def test_the_columns_of_a_table_are_columns_of_its_suite_and_point_the_same_way(ref: str) -> None:
    table = find_table(ref)
    spec = read_suite(Path(find("suites", str(table.suite))))
    labels = {m.name: m.ref for m in spec.metrics}
    directions = {c.metric: c.direction for c in table.claims}
    for metric, columns in table.columns.items():
        for column in columns:
            label, _, value = column.partition("/")
            if label == "seconds":
                continue
            values = find("metrics", labels[label]).values
            assert values[value or next(iter(values))] == directions[metric]
    names = {m.name for m in spec.methods}
    assert {c.method for c in table.claims} <= names
    assert spec.parts[0].width * spec.parts[0].height > 0


def test_a_misspelt_table_is_answered_with_near_ones_and_a_paper_with_its_tables() -> None:
    with pytest.raises(UsageError, match=r"'drspo:table1'.*`scrollbench reproduce` lists all"):
        find_table("drpso:table1")
    with pytest.raises(UsageError, match="its tables: drspo:table1, drspo:table2, drspo:fig7"):
        find_table("drspo")
    assert find_table("cdgs").id == "cdgs:table4"


GOOD = "tiny,table1,one,FID,12.30,,lower,,512x4096,,,paper,here"


def write(folder: Path, *rows: str, head: str = ",".join(COLUMNS)) -> Path:
    file = folder / "tiny.csv"
    file.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD.replace("12.30", "12,30"), "expected 13 cells (paper, table"),
        (GOOD.replace("12.30", "twelve"), "column value: a number as printed"),
        (GOOD.replace("12.30", "nan"), "column value: a number as printed"),
        (GOOD.replace("12.30,", "12.30,0"), "column rank: a whole number from 1"),
        (GOOD.replace("lower", "lowre"), "column direction: 'lowre'; did you mean 'lower'"),
        (GOOD.replace("paper,here", "papr,here"), "column via: 'papr'; did you mean 'paper'"),
        (GOOD.replace("FID", ""), "column metric: empty"),
        (GOOD.replace("FID", " FID"), "column metric: spaces around ' FID'"),
        (GOOD, "column metric: 'FID' of 'one' stands in line 2 already"),
    ],
)
def test_a_wrong_cell_is_refused_with_file_line_and_column(tmp_path: Path, row: str, said: str) -> None:
    file = write(tmp_path, GOOD, row)
    with pytest.raises(UsageError) as caught:
        read_claims(file)
    assert str(caught.value).startswith(f"{file}, line 3: ")
    assert said in str(caught.value)
    (claim,) = read_claims(write(tmp_path, GOOD))  # negative control: the good row alone
    assert (claim.value, claim.number, claim.half_digit) == ("12.30", 12.3, 0.005)


def test_wrong_columns_and_wrong_index_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny\.csv, line 1: no column 'method'; expected paper, table"):
        read_claims(write(tmp_path, GOOD, head="paper,table"))
    write(tmp_path, GOOD)
    index = tmp_path / "tables.toml"
    head = '[papers]\ntiny = { title = "Tiny" }\n["tiny:table1"]\ntitle = "T"\n'
    for text, said in (
        ("", "papers.tiny: missing"),
        (head.replace("table1", "table2"), "no CSV file has this table"),
        (head + 'columns = { FDI = ["fid"] }', "did you mean 'FID'"),
        (head + 'stated = [["FID", "won", "one"]]', "stated: unknown 'won'"),
        (head + 'titel = ""', "unknown key"),
    ):
        index.write_text(text, encoding="utf-8")
        tables.cache_clear()
        with pytest.raises(UsageError, match=said):
            tables(tmp_path)
    with pytest.raises(UsageError, match="no published numbers in"):
        tables(tmp_path / "nowhere")
    assert FOLDER.is_dir()
