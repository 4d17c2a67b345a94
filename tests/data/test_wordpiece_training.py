import os
import subprocess
import sys
from collections import Counter

import pytest

from bertjax.data.wordpiece_training import SPECIALS, _merges, learn_pieces
from bertjax.errors import ConfigError, DataError


def test_merges_by_hand():
    # hug 10, pug 5, pun 12, bun 4, hugs 5: (##u, ##g) 20 first, then (##u, ##n) 16, (h, ##ug) 15, (p, ##un) 12
    counts = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    assert _merges(counts, known=set(), wanted=4) == ["##ug", "##un", "hug", "pun"]


def test_repeated_letters_are_joined_from_the_left():
    assert _merges({"aaaa": 2}, known=set(), wanted=9) == ["##aa", "##aaa", "aaaa"]


def test_what_occurs_once_is_not_merged():
    assert learn_pieces(["ab cd"], lambda word: [word], 64) == [*SPECIALS, "##b", "##d", "a", "c"]


def test_rare_letters_are_left_out_when_the_alphabet_is_too_large():
    letters = [chr(0x4E00 + i) for i in range(200)]
    pieces = learn_pieces([" ".join(letters + letters[100:])], lambda word: [word], 64)
    assert set(pieces) - set(SPECIALS) <= set(letters[100:])
    assert len(pieces) == len(SPECIALS) + (64 - len(SPECIALS)) // 2


def test_errors():
    with pytest.raises(ConfigError, match="vocab_size=10 is too small; at least 64"):
        learn_pieces(["text"], lambda word: [word], 10)
    with pytest.raises(DataError, match="no text"):
        learn_pieces(["", "  "], lambda word: [word], 100)


def test_the_same_text_gives_the_same_vocabulary_whatever_the_hash_seed():
    code = (
        "from bertjax.data.tokenizer import Tokenizer\n"
        "import random; rng = random.Random(0)\n"
        "texts = [''.join(rng.choices('abcdeéf ', k=60)) for _ in range(200)]\n"
        "print(Tokenizer.train(texts, 300, lowercase=False).hash)"
    )
    hashes = Counter(
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    )
    assert len(hashes) == 1
