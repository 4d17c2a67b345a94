"""A SentencePiece model of the unigram kind as the parts of a tokenizer.json.

What `spiece.prepared` and the model do to a text becomes a chain of normalizers; each is what transformers' own
conversion has, but where that would give other ids: Python's white space, combining marks and final sigma, Hangul that
the loss of accents has taken apart, and the scores of words that the model was told to keep whole. What stays different
is rare: a mark on a letter that the charsmap replaces is lost, several on one letter are put in order first, and a
capital sigma beside an apostrophe or the like is σ.
"""

import base64
from functools import cache
from itertools import pairwise
from typing import Any
from unicodedata import combining

from bertjax.data.pipelines import FINAL_SIGMA
from bertjax.data.spiece import AVOIDED, SPACE, SentencePiece, ends_in_comma

Part = dict[str, Any]
BONUS = 0.1  # of a word that the user declared, for each byte but one, instead of its score; as found in 0.2.3
LAST = 0x10FFFF


def why_not(tokenizer: SentencePiece) -> str:
    """What of a model no tokenizer.json can say; "" where one can say it all."""
    model = tokenizer.proto()
    training, text = model.trainer_spec, model.normalizer_spec
    if training.model_type != training.UNIGRAM:
        return "SentencePiece joins the pieces of a BPE model in an order of its own"
    if training.byte_fallback:
        return "the pieces that stand for bytes would also be found in a text"
    if training.treat_whitespace_as_suffix or not (text.escape_whitespaces and text.add_dummy_prefix):
        return "not every word has a space in front of it"
    return ""


def marks(tokenizer: SentencePiece) -> set[str]:
    """The pieces that no text has."""
    return {piece.piece for piece in tokenizer.proto().pieces if piece.type in (piece.CONTROL, piece.UNKNOWN)}


def parts(tokenizer: SentencePiece) -> tuple[Part, Part, Part, Part]:
    """Normalizer, pre-tokenizer, model and decoder."""
    model = tokenizer.proto()
    declared = {piece.piece for piece in model.pieces if piece.type == piece.USER_DEFINED}.difference(marks(tokenizer))
    vocabulary = [[piece.piece, _score(piece, piece.piece in declared)] for piece in model.pieces]
    unigram = {"type": "Unigram", "unk_id": tokenizer.unk_id, "vocab": vocabulary, "byte_fallback": False}
    spaces = {
        "type": "Metaspace",
        "replacement": SPACE,
        "add_prefix_space": True,  # the same for tokenizers up to 0.14
        "prepend_scheme": "always",
        "split": SPACE in tokenizer.rows and not any(SPACE in piece.piece[1:] for piece in model.pieces),
    }
    return {"type": "Sequence", "normalizers": _normalizers(tokenizer)}, spaces, unigram, spaces


def _score(piece: Any, declared: bool) -> float:  # noqa: ANN401 (a message of the library's)
    if declared:
        return BONUS * (len(piece.piece.encode()) - 1)
    parted = ends_in_comma(piece.piece) and piece.score > -AVOIDED
    return float(piece.score - AVOIDED * parted)


def _normalizers(tokenizer: SentencePiece) -> list[Part]:
    text = tokenizer.proto().normalizer_spec
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    steps = [_replace({"Regex": _any_of(str.isspace)}, " "), strip]
    steps += [_replace({"String": quotes}, '"') for quotes in ("``", "''")]
    if not tokenizer.keep_accents:
        steps += [{"type": "NFKD"}, _replace({"Regex": _any_of(combining)}, "")]
    if tokenizer.lowercase:
        steps += [_replace({"Regex": FINAL_SIGMA}, "ς"), {"type": "Lowercase"}]
    if text.precompiled_charsmap:
        if "가" in tokenizer.normalized("\u1100\u1161"):  # of the library's Precompiled a rule sees few letters at once
            steps.append({"type": "NFC"})
        charsmap = base64.b64encode(text.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if text.remove_extra_whitespaces:
        steps += [_replace({"Regex": " {2,}"}, " "), strip]
    return steps


def _replace(pattern: dict[str, str], content: str) -> Part:
    return {"type": "Replace", "pattern": pattern, "content": content}


@cache
def _any_of(belongs: Any) -> str:  # noqa: ANN401 (of a character, true or false)
    """A regular expression of one or more of the characters that belong, written as ranges."""
    found = [code for code in range(LAST + 1) if belongs(chr(code))]
    starts = [found[0], *(b for a, b in pairwise(found) if b != a + 1)]
    ends = [*(a for a, b in pairwise(found) if b != a + 1), found[-1]]
    ranges = (chr(a) if a == b else f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))
    return f"[{''.join(ranges)}]+"
