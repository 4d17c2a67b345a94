import json
import random
import tracemalloc
from collections import Counter

from bertjax.data import corpus
from bertjax.data.duplicates import Seen


def test_every_document_is_new_once():
    rng = random.Random(0)
    texts = [[str(rng.randrange(30_000))] for _ in range(60_000)]
    seen, known = Seen(), set()
    for text in texts:
        assert seen.new(text) == (text[0] not in known)
        known.add(text[0])


def test_lines_count_and_their_breaks():
    seen = Seen()
    assert seen.new(["a b", "c"]) and seen.new(["a", "b c"]) and seen.new(["a b c"]) and seen.new(["\ud800"])
    assert not seen.new(["a b", "c"]) and not seen.new(["\ud800"])


def test_of_more_than_most_the_later_ones_are_not_remembered():
    seen = Seen(most=3)
    assert [seen.new([text]) for text in "abcdbdad"] == [True] * 4 + [False, True, False, True]


def test_memory_is_a_few_bytes_a_document():
    tracemalloc.start()
    seen = Seen()
    for i in range(200_000):
        assert seen.new([str(i)])
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 200_000 * 25 and peak < 200_000 * 37


def test_duplicates_are_dropped_over_all_files_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n\n one  \ntwo\n\nthree\nfour\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("three", "one\n\ntwo", "five")))
    for deduplicate, kept, names in ((True, 4, corpus.DUPLICATES), (False, 7, corpus.KEPT)):
        counts = Counter()
        found = list(corpus.documents([str(tmp_path / "*")], deduplicate=deduplicate, counts=counts))
        assert len(found) == kept and counts[names] == 3
        assert not counts.keys() & {corpus.DUPLICATES, corpus.KEPT} - {names}
    assert list(corpus.documents([str(tmp_path / "*")], deduplicate=True, counts=Counter())) == [
        ["one", "two"],
        ["three"],
        ["three", "four"],
        ["five"],
    ]
