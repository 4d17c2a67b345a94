"""Are the ids those of the original tokenizers? Lines on which they are equal, for each kind of vocabulary.

    python bench/tokenizer_parity.py --text simplewiki.jsonl kowiki.jsonl \
        --vocabularies bert/vocab.txt gpt2/vocab.json albert/spiece.model \
        [--lines 10000] [--gold questions.jsonl] [--out bench/results]

References: google-research/bert's algorithm written out in Python for vocab.txt; the `tokenizers` library's GPT-2 for
vocab.json; the `sentencepiece` library after ALBERT's preprocessing for spiece.model. Lines are drawn from the JSON
lines' "text". `--gold` holds {"original": text, "ids": [...]} a line, for the first vocabulary. The table goes to
OUT/tokenizer-parity.md, and as JSON to OUT/tokenizer-parity.json.
"""

import base64
import json
import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import results
import sentencepiece
import tokenizers

from bertjax.data.bpe import ByteBPE
from bertjax.data.spiece import SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.wordpiece import WordPiece

Reference = Callable[[str], list[int]]
CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F))
CJK += ((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


def main() -> None:
    """Writes a line for each vocabulary and text."""
    parser = results.parser(__doc__)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--vocabularies", nargs="+", required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--gold", default="")
    options = parser.parse_args()
    made: list[tuple[object, ...]] = []
    for path in options.vocabularies:
        tokenizer = Tokenizer.load(path)
        reference = reference_of(tokenizer)
        for text in options.text:
            rows = draw(Path(text), options.lines)
            expected = [reference(row) for row in rows]
            began = time.process_time()
            found = tokenizer.encode_batch(rows)
            took = time.process_time() - began
            corpus = sum(map(list.__eq__, tokenizer.encode_corpus(rows).rows(), expected))
            size = sum(len(row.encode()) for row in rows) / 1e6
            equal = sum(map(list.__eq__, found, expected))
            made.append((Path(path).name, Path(text).name, len(rows), equal, corpus, f"{size / took:.2f}"))
    lines = results.table(("vocabulary", "text", "lines", "equal", "by encode_corpus", "MB a CPU-s"), made)
    if options.gold:
        gold = [json.loads(line) for line in Path(options.gold).read_text().splitlines()]
        found = Tokenizer.load(options.vocabularies[0]).encode_batch([row["original"] for row in gold])
        equal = sum(ids == row["ids"] for ids, row in zip(found, gold, strict=True))
        lines += ["", f"Of the {len(gold):,} texts of {Path(options.gold).name} {equal:,} are equal."]
    results.write(options.out, "tokenizer-parity", lines, {"rows": made})


def draw(file: Path, count: int) -> list[str]:
    """Lines of the documents of a JSON lines file, drawn at random."""
    with file.open() as stream:
        rows = [row for line in stream for row in json.loads(line)["text"].split("\n") if row.strip()]
    random.Random(0).shuffle(rows)
    return rows[:count]


def reference_of(tokenizer: Tokenizer) -> Reference:
    """The original's way from a text to ids with the same vocabulary."""
    if isinstance(tokenizer, WordPiece):
        return lambda text: bert(tokenizer, text)
    if isinstance(tokenizer, SentencePiece):
        model = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(tokenizer.model))
        return lambda text: albert(tokenizer, model, text)
    assert isinstance(tokenizer, ByteBPE)
    merges = [(left, right) for left, right in (merge.split(" ") for merge in tokenizer.merges)]
    gpt2 = tokenizers.ByteLevelBPETokenizer(tokenizer.rows, merges, add_prefix_space=tokenizer.prefix_space)
    return lambda text: gpt2.encode(text).ids


def bert(tokenizer: WordPiece, text: str) -> list[int]:
    """google-research/bert, tokenization.py: BasicTokenizer, then WordpieceTokenizer."""
    category = unicodedata.category
    kept = [c for c in text if c in "\t\n\r" or (c not in "\0\ufffd" and category(c) not in ("Cc", "Cf"))]
    spaced = "".join(" " if c in "\t\n\r" or category(c) == "Zs" else c for c in kept)
    spaced = "".join(f" {c} " if any(low <= ord(c) <= high for low, high in CJK) else c for c in spaced)
    if tokenizer.lowercase:
        spaced = "".join(c for c in unicodedata.normalize("NFD", spaced.lower()) if category(c) != "Mn")
    marked = (category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum()) for c in spaced)
    words = "".join(f" {c} " if mark else c for c, mark in zip(spaced, marked, strict=True)).split()
    return [row for word in words for row in pieces(tokenizer, word)]


def pieces(tokenizer: WordPiece, word: str) -> list[int]:
    """The longest piece there is, again and again; words of over 200 characters are unknown."""
    ids: list[int] = []
    start = 0
    while start < len(word) <= 200:
        ends = range(len(word), start, -1)
        names = ((end, ("##" if start else "") + word[start:end]) for end in ends)
        end, name = next(((end, name) for end, name in names if name in tokenizer.rows), (0, ""))
        if not name:
            return [tokenizer.unk_id]
        ids.append(tokenizer.rows[name])
        start = end
    return ids or [tokenizer.unk_id]


def albert(tokenizer: SentencePiece, model: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """google-research/albert, tokenization.py: preprocess_text (with the quotes), then encode_pieces."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if not tokenizer.keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    ids = []
    for piece in model.encode(text.lower() if tokenizer.lowercase else text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = model.encode(piece[:-1].replace("▁", ""), out_type=str)
            if not piece.startswith("▁") and parts[0].startswith("▁"):
                parts = [parts[0][1:], *parts[1:]] if len(parts[0]) > 1 else parts[1:]
            ids += [model.piece_to_id(part) for part in [*parts, ","]]
        else:
            ids.append(model.piece_to_id(piece))
    return ids


if __name__ == "__main__":
    main()
