"""What the lint of prompts is made of: words, likeness, tokens, shares."""

from __future__ import annotations

import random
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from test_prompt_lint import CONTENT, clean

from bench.errors import UsageError
from bench.prompt_near import latent_semantic, same_direction, shared_words
from bench.prompt_stats import shares, statistics
from bench.prompt_tokens import count_tokens
from bench.prompt_words import histogram, richness, skeleton
from bench.prompts import available, load_prompts
from bench.types import Prompt

# -- words and likeness


def test_the_share_of_4_grams_is_what_one_counts_on_paper() -> None:
    a, b = "one big red boat sails far out", "one big red boat sails"  # 4 and 2 four-grams, 2 shared
    worst, pairs = shared_words([a, "nothing in common with these", b, "too short"], 0.5)
    assert worst == 1.0
    assert [(p.first, p.second, p.likeness) for p in pairs] == [(0, 2, 1.0)]
    assert shared_words([a, "one big red boat at night near land"], 0.4) == (0.25, [])
    assert shared_words(["no", "gram here"], 0.1) == (0.0, [])


def test_the_embedding_brings_reordered_texts_together_and_keeps_others_apart() -> None:
    texts = [r["text"] for r in clean()]
    texts.append("In the dim hall " + " ".join(reversed(texts[0].split())))
    _, pairs = same_direction(latent_semantic(texts), 0.75)
    assert [(p.first, p.second) for p in pairs] == [(0, 18)]
    assert same_direction(latent_semantic(texts[:-1]), 0.75)[0] < 0.3


def test_the_reduced_embedding_keeps_inner_products_as_well_as_its_size_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    few = random.Random(1)
    texts = [" ".join(few.sample(CONTENT, 9)) for _ in range(60)]
    whole, reduced = latent_semantic(texts, 60), latent_semantic(texts, 20)
    exact = np.linalg.svd(whole, full_matrices=False)
    best = (exact[0][:, :20] * exact[1][:20]) @ exact[2][:20]
    assert reduced.shape == (60, 20)
    np.testing.assert_allclose(reduced @ reduced.T, best @ best.T, rtol=0, atol=1e-9)
    assert np.abs(reduced @ reduced.T - whole @ whole.T).max() > 0.01
    monkeypatch.setattr("bench.prompt_near.DENSE", 10)  # the way of large sets gives the same
    sparse = latent_semantic(texts, 20)
    np.testing.assert_allclose(sparse @ sparse.T, reduced @ reduced.T, rtol=0, atol=1e-9)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [p.text for p in load_prompts("scrollworld@1:60").prompts]
    whole = shared_words(texts, 0.8), same_direction(latent_semantic(texts), 0.8, [(0, 1), (40, 41)])
    monkeypatch.setattr("bench.prompt_near.CHUNK", 7)
    assert shared_words(texts, 0.8) == whole[0]
    blocked = same_direction(latent_semantic(texts), 0.8, [(0, 1), (40, 41)])
    assert [(p.first, p.second) for p in blocked[1]] == [(p.first, p.second) for p in whole[1][1]] != []


def test_a_skeleton_masks_runs_of_content_words() -> None:
    assert " ".join(skeleton("A tall red ship under the Moon, with two gulls")) == "a _ under the _ with _"
    assert skeleton("Reeds") == ("_",)


def test_vocabulary_numbers_are_what_one_counts_on_paper() -> None:
    assert richness(["a b a", "c"], window=2) == {
        "tokens": 4,
        "types": 3,
        "ttr": 0.75,
        "mattr": 1.0,
        "hapax_share": 2 / 3,
    }
    assert richness(["a a b"], window=2)["mattr"] == pytest.approx(0.75)  # (a a) 1/2, (a b) 2/2
    assert richness(["a a b"], window=9)["mattr"] == pytest.approx(2 / 3)
    assert richness(["!"])["ttr"] is None
    assert histogram([3, 9, 10, 31]) == {"0-9": 2, "10-19": 1, "20-29": 0, "30-39": 1}


# -- tokens

ODD = [
    "Émile's café at 3 o'clock, “quoted” ½ na\u0131ve &amp; I'LL don't 12345 !!! ...", "東京 の 🎈 İstanbul ß",
    "  two  spaces\tand\n", "â€œmojibakeâ€\x9d", "it's '' 's", "ﬁne ’tis 100% a_b ٣٤ ⅷ", "",
]  # fmt: skip


def test_clip_tokens_are_those_of_open_clip() -> None:
    package = find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location("their_tokenizer", Path(package.origin).with_name("tokenizer.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)  # their file alone: the package takes many seconds to import
    spec.loader.exec_module(module)
    theirs = module.SimpleTokenizer()
    texts = [*ODD, *(p.text for name in available() for p in load_prompts(f"{name}:40").prompts)]
    expected = [len(theirs.encode(t)) + 2 for t in texts]
    assert list(count_tokens(texts)["clip"].counts) == expected
    assert list(count_tokens([t + "x" for t in texts])["clip"].counts) != expected


def write_bert(folder: Path) -> Path:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "light", "##house", ",", "red"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


def test_bert_tokens_are_exact_with_a_tokenizer_and_said_to_be_estimated_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.prompt_tokens._cached", lambda kind: None)
    texts = ["A red lighthouse, red"]
    folder = write_bert(tmp_path / "bert")
    exact = count_tokens(texts, {"bert": folder})["imagereward"]
    assert (exact.counts, exact.estimated) == ((8,), False)  # [CLS] a red light ##house , red [SEP]
    guess = count_tokens(texts)["imagereward"]
    assert guess.estimated
    assert "--tokenizer bert=FOLDER" in guess.source
    assert guess.cut == ()
    assert count_tokens(["red " * 34])["imagereward"].cut == (0,)
    monkeypatch.setattr("bench.prompt_tokens._cached", lambda kind: folder / "vocab.txt" if kind == "bert" else None)
    cached = count_tokens(texts)
    assert (cached["imagereward"], cached["t5"].estimated) == (exact, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("brt", "unknown tokenizer 'brt'; did you mean 'bert'"), ("t5", r"t5=.*: expected a folder with tokenizer.json")],
)
def test_a_wrong_tokenizer_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        count_tokens(["x"], {name: tmp_path})


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json: not a tokenizer"):
        count_tokens(["x"], {"t5": tmp_path})


# -- shares and statistics


def test_shares_count_categories_and_leave_free_text_alone() -> None:
    columns = {
        "theme": ["sea", "sea", "city", "city"], "subtheme": ["bay"] * 4, "style": ["ink", "ink", "ink", "oil"],
        "time": [None, "dusk", "dusk", "dusk"], "unique": ["sun", None, "sun", "moon"], "short": ["x", "y", "z", "w"],
        "counts": [{"boat": 2}, {}, {"sun": 1}, {}],
    }  # fmt: skip
    prompts = [Prompt(f"p{i}", "x", "", {k: v[i] for k, v in columns.items()}) for i in range(4)]
    assert shares(prompts) == {
        "prompts": 4, "themes": 2, "subthemes": 2, "theme": {"city": 2, "sea": 2}, "style": {"ink": 3, "oil": 1},
        "time": {"dusk": 3, "none": 1}, "counted": {"0": 3, "1": 1},
        "unique": {"asked": 3, "none": 1, "different": 2, "often": {"sun": 2, "moon": 1}},
    }  # fmt: skip
    found = statistics(prompts, count_tokens([p.text for p in prompts]))
    assert found["length"] == {"least": 1, "mean": 1.0, "most": 1, "histogram": {"0-9": 4}}
    assert found["clip"]["most"] == 3
    assert (found["imagereward"]["cut"], found["imagereward"]["estimated"]) == (0, True)
