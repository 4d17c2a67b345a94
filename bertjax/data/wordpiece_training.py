"""Learning a WordPiece vocabulary: merges of the most frequent pairs, in pure Python so that ties are ours to break.

The trainers of the `tokenizers` library number the alphabet in the order of a hash map, so two runs over one text
can give two vocabularies; here equal counts are ordered by the pieces themselves.
"""

import heapq
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import chain, pairwise

from bertjax.data import parallel
from bertjax.data.sampling import NO_TEXT, Texts
from bertjax.data.specials import BERT as SPECIALS
from bertjax.errors import ConfigError, DataError

SMALLEST = 64  # below this not even the letters fit
MAX_WORDS = 2_000_000  # distinct words in memory; beyond it those seen once are forgotten
LEARNT_FROM = 500_000  # the most frequent of these, after normalisation
LONGEST_WORD = 100  # characters; longer ones (addresses, hashes, noise) teach nothing
COUNTED_AT_ONCE = 1_000_000  # characters

Pair = tuple[str, str]


def learn_pieces(texts: Texts, split: Callable[[str], list[str]], size: int) -> list[str]:
    """SPECIALS, the alphabet and merged pieces: at most `size` tokens, fewer where the text has no more to merge.

    `split` normalises a whitespace-free word and cuts it at punctuation.
    """
    if size < SMALLEST:
        raise ConfigError(f"vocab_size={size} is too small; at least {SMALLEST}")
    counts = _count_words(texts, split)
    if not counts:
        raise DataError(NO_TEXT)
    alphabet = _alphabet(counts, (size - len(SPECIALS)) // 2)
    words = {word: count for word, count in counts.items() if all(s in alphabet for s in _symbols(word))}
    pieces = [*SPECIALS, *sorted(alphabet)]
    return pieces + _merges(words, known=set(pieces), wanted=size - len(pieces))


def _symbols(word: str) -> list[str]:
    return [word[0], *(sys.intern(f"##{letter}") for letter in word[1:])]


class _WordCounter:
    """How often each word stands in some texts, between white space."""

    def __init__(self, sentences: Callable[[str], list[str]]) -> None:
        self.sentences = sentences

    def __call__(self, texts: list[str]) -> Counter[str]:
        sentences = chain.from_iterable(map(self.sentences, texts))
        return Counter(chain.from_iterable(map(str.split, sentences)))


def _count_words(texts: Texts, split: Callable[[str], list[str]]) -> dict[str, int]:
    """How often each normalised word occurs: first by whitespace, so that `split` sees each of them once.

    The texts are counted in lots that do not depend on the number of workers, so neither does what is forgotten.
    """
    raw: Counter[str] = Counter()
    lots = parallel.lots(texts.texts, len, COUNTED_AT_ONCE)
    with closing(parallel.ordered(_WordCounter(texts.sentences), lots, texts.workers)) as counted:
        for found in counted:
            raw.update(found)
            if len(raw) > MAX_WORDS:
                raw = Counter({word: count for word, count in raw.items() if count > 1})
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        if len(word) <= LONGEST_WORD:
            for part in split(word):
                counts[part] += count
    if len(counts) <= LEARNT_FROM:
        return counts
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LEARNT_FROM])


def _alphabet(counts: Mapping[str, int], most: int) -> set[str]:
    """The `most` frequent one-character pieces; words with others will be [UNK]."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for symbol in _symbols(word):
            found[symbol] += count
    return set(sorted(found, key=lambda symbol: (-found[symbol], symbol))[:most])


def _merges(counts: Mapping[str, int], known: set[str], wanted: int) -> list[str]:
    """Up to `wanted` new pieces: again and again the most frequent pair that occurs twice or more, joined."""
    words = [_symbols(word) for word in counts]
    weights = list(counts.values())
    totals: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)  # words that have (or had) the pair
    for index, word in enumerate(words):
        for pair in pairwise(word):
            totals[pair] += weights[index]
            holders[pair].add(index)
    heap = [(-count, pair) for pair, count in totals.items()]
    heapq.heapify(heap)
    pieces: list[str] = []
    while heap and len(pieces) < wanted:
        negative, pair = heapq.heappop(heap)
        if -negative != totals[pair]:  # an entry from before the count changed
            if totals[pair] > 1:
                heapq.heappush(heap, (-totals[pair], pair))
            continue
        if -negative < 2:
            break
        joined = pair[0] + pair[1].removeprefix("##")
        if joined not in known:
            known.add(joined)
            pieces.append(joined)
        for new in _join_in_words(pair, joined, words, weights, totals, holders):
            heapq.heappush(heap, (-totals[new], new))
    return pieces


def _join_in_words(
    pair: Pair,
    joined: str,
    words: list[list[str]],
    weights: list[int],
    totals: Counter[Pair],
    holders: defaultdict[Pair, set[int]],
) -> set[Pair]:
    """Join `pair` in every word that has it, keep `totals` and `holders` true, and name the pairs that arose."""
    arisen: set[Pair] = set()
    for index in holders.pop(pair):
        word, weight = words[index], weights[index]
        for old in pairwise(word):
            totals[old] -= weight
        words[index] = word = _join(word, pair, joined)
        for new in pairwise(word):
            totals[new] += weight
            if joined in new:
                holders[new].add(index)
                arisen.add(new)
    del totals[pair]
    return arisen


def _join(word: list[str], pair: Pair, joined: str) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(word):
        if at + 1 < len(word) and word[at] == pair[0] and word[at + 1] == pair[1]:
            out.append(joined)
            at += 2
        else:
            out.append(word[at])
            at += 1
    return out
