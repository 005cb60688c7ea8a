"""The miniature's tokenizers in the layouts of CLIP (byte pairs) and T5 (unigrams), with this world's words."""

from __future__ import annotations

import json
import string
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.normalizers import Lowercase
from transformers import CLIPTokenizer, T5TokenizerFast

from bench.world.scene import FILLERS, caption, sample_scene

VOCABULARY = 2200
CONTEXT = 77


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose single tokens are the words of captions and the common words of real prompts.

    Bytes are in the vocabulary, so any text can be encoded; unknown words fall into pieces. The end token has the
    largest id, as in CLIP (open_clip pools at the arg-max).
    """
    rng = np.random.default_rng(0)
    text = [caption(sample_scene(rng), rng) for _ in range(3000)] + [" ".join(FILLERS)] * 20
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) for m in learnt["merges"]]
    pieces = alphabet + [a + "</w>" for a in alphabet] + sorted({a + b for a, b in merges})
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files (tokenizer.json, tokenizer_config.json) into a folder."""
    make_tokenizer().save_pretrained(folder)


def make_t5_tokenizer(length: int) -> T5TokenizerFast:
    """A T5 tokenizer whose pieces are the words of captions and the common words of real prompts, and letters.

    Unigram as T5's: a known word is one piece, any other falls into letters. Reads at most ``length`` tokens.
    """
    rng = np.random.default_rng(0)
    words = Counter(w for _ in range(3000) for w in caption(sample_scene(rng), rng).replace(",", " ,").split())
    words.update(dict.fromkeys(FILLERS, 20))
    total = sum(words.values())
    pieces = {w if w == "," else "▁" + w: float(np.log(n / total)) for w, n in sorted(words.items())}
    letters = {c: -20.0 for c in ("▁", *string.ascii_letters, *string.digits, *string.punctuation) if c not in pieces}
    specials = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    return T5TokenizerFast(vocab=[*(specials | letters | pieces).items()], extra_ids=0, model_max_length=length)
