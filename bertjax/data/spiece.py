"""SentencePiece as ALBERT uses it: unigram or BPE, trained here or loaded from a spiece.model.

Before the model sees a text, spaces are made even, `` and '' become ", and an uncased vocabulary loses accents and
capitals; after it, a comma is parted from the digits before it (ALBERT's tokenization.py, with the quotes of its
successors). Special tokens are <pad>, <unk>, [CLS], [SEP], [MASK]; in raw text they are ordinary characters.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from bertjax.data.sampling import Texts
from bertjax.data.specials import ALBERT, named_in
from bertjax.data.tokenizer import Tokenizer, encodable
from bertjax.data.vocabulary_files import read_bytes, read_config, write_config
from bertjax.errors import ConfigError, DataError

SAMPLE = 20_000_000  # characters to learn from, if no other number is asked for: about a minute and half a gigabyte
AVOIDED = 100.0  # taken from the score of a piece that is not to be found; transformers takes as much
SPACE = "▁"  # how a vocabulary writes a space
OURS = ("AlbertTokenizer", "AlbertTokenizerFast")
FAST = "PreTrainedTokenizerFast"  # of an export, whose tokenizer.json says it all


class SentencePiece(Tokenizer):
    """Words (with the space before them) cut as the model finds likeliest; `model` is its file in base64."""

    def __init__(self, model: str, *, lowercase: bool, keep_accents: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model, self.lowercase, self.keep_accents = model, lowercase, keep_accents
        backend = SentencePieceProcessor(model_proto=base64.b64decode(model))
        vocabulary = [backend.id_to_piece(row) for row in range(backend.get_piece_size())]
        known = set(vocabulary)
        specials = named_in(known, ALBERT)
        super().__init__([*vocabulary, *(name for name in specials if name not in known)], specials)
        found = chain.from_iterable(backend.encode(list(specials)))
        if not {self.rows[name] for name in specials if name != specials.unk}.isdisjoint(found):
            backend = SentencePieceProcessor(model_proto=_with_control(base64.b64decode(model), specials))
        self._backend = backend
        self._commas = {row: self._parted(token) for row, token in enumerate(vocabulary) if ends_in_comma(token)}

    def _parted(self, token: str) -> list[int]:
        """Ids of a piece like "▁9,000," with its comma apart (encode_pieces)."""
        ids: list[int] = self._backend.encode(token[:-1].replace(SPACE, ""))
        first = self.vocabulary[ids[0]] if ids else ""
        if not token.startswith(SPACE) and first.startswith(SPACE):
            ids = ids[1:] if first == SPACE else [self.rows.get(first[1:], self.unk_id), *ids[1:]]
        return [*ids, self.rows.get(",", self.unk_id)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        plain = [prepared(text, lowercase=self.lowercase, keep_accents=self.keep_accents) for text in texts]
        batch: list[list[int]] = self._backend.encode(plain, num_threads=1)
        return [
            ids
            if self._commas.keys().isdisjoint(ids)
            else [new for row in ids for new in self._commas.get(row, (row,))]
            for ids in batch
        ]

    def begins_word(self, token: str) -> bool:
        """Whether a piece begins with a space."""
        return token.startswith(SPACE)

    def join(self, ids: Iterable[int]) -> str:
        """Pieces one after the other, their spaces as spaces."""
        return "".join(self.vocabulary[row] for row in ids).replace(SPACE, " ")

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without the space that its first word carries."""
        return super().decode(ids).lstrip(" ")

    def _around_mask(self, parts: Sequence[str]) -> list[list[int]]:
        """What follows a mask without a space ("[MASK].") begins no word."""
        first, *rest = zip(parts, self.encode_batch(parts), strict=True)
        glued = [ids[:1] == [self.rows.get(SPACE)] and not part.startswith(" ") for part, ids in rest]
        return [first[1], *(ids[1:] if drop else ids for (_, ids), drop in zip(rest, glued, strict=True))]

    def proto(self) -> Any:  # noqa: ANN401 (a ModelProto)
        """The model as it is used, where special tokens are found in no text: sentencepiece_model.proto's message."""
        return _message(self._backend.serialized_model_proto())

    def normalized(self, text: str) -> str:
        """What the model itself makes of a text before it looks for its pieces."""
        return str(self._backend.normalize(text))

    def to_json(self) -> dict[str, Any]:
        """The model file and what is done to a text first."""
        about = {"lowercase": self.lowercase, "keep_accents": self.keep_accents}
        return {"kind": "sentencepiece", **about, "model": self.model}

    def save(self, folder: str | Path) -> None:
        """spiece.model and tokenizer_config.json, as other tools read them."""
        options = {"do_lower_case": self.lowercase, "keep_accents": self.keep_accents}
        write_config(folder, OURS[0], self.specials, **options, remove_space=True)
        (Path(folder) / "spiece.model").write_bytes(base64.b64decode(self.model))

    @classmethod
    def learn(cls, texts: Texts, vocab_size: int, *, lowercase: bool, model_type: str) -> SentencePiece:
        """A "unigram" or "bpe" model of at most `vocab_size` pieces learnt from texts."""
        from sentencepiece import SentencePieceTrainer

        options = {"lowercase": lowercase, "keep_accents": not lowercase}
        lines = (prepared(text, **options) for text in texts.sample(SAMPLE))
        model = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                pad_piece=ALBERT.pad,
                unk_piece=ALBERT.unk,
                control_symbols=list(ALBERT[2:]),
                max_sentence_length=80_000_000,  # bytes; the default leaves longer lines out
                num_threads=16,  # sums are made in parts, one a thread: another number would be another model
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2].partition(" Increase")[0]
            raise ConfigError(f"vocab_size={vocab_size} does not suit this corpus ({reason}); give a larger") from None
        found = model.getvalue() if model_type == "bpe" else _settled(model.getvalue())
        return cls(base64.b64encode(found).decode(), **options)

    @classmethod
    def read(cls, file: Path) -> SentencePiece:
        """From a spiece.model; where no tokenizer_config.json beside it says otherwise, capital letters mean cased."""
        model = base64.b64encode(read_bytes(file, "spiece.model")).decode()
        config = read_config(file.parent)
        known = OURS if "keep_accents" not in config else (*OURS, FAST)
        if config.get("tokenizer_class", OURS[0]) not in known:
            raise DataError(f"{file}: of a {config['tokenizer_class']}; of SentencePiece models, {OURS[0]}'s are known")
        try:
            tokenizer = cls(model, lowercase=False, keep_accents=True)
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{file}: not a SentencePiece model ({error}); get the file anew") from None
        pieces = set(tokenizer.vocabulary).difference(tokenizer.specials)
        cased = any("A" <= letter <= "Z" for piece in pieces for letter in piece)
        lowercase = config.get("do_lower_case", not cased)
        return cls(model, lowercase=lowercase is True, keep_accents=config.get("keep_accents", not lowercase) is True)


class _Plain(dict[int, str]):
    """Character -> its NFKD form without accents.

    One by one: accents would be put in order first, only to be left out, and Python does that in quadratic time.
    """

    def __missing__(self, code: int) -> str:
        letters = normalize("NFKD", chr(code))
        self[code] = "".join(letter for letter in letters if not combining(letter))
        return self[code]


_PLAIN = _Plain()


def prepared(text: str, *, lowercase: bool, keep_accents: bool) -> str:
    """A text as ALBERT gives it to the model (preprocess_text)."""
    text = " ".join(encodable(text).split()).replace("``", '"').replace("''", '"')
    if not keep_accents and not text.isascii():
        text = text.translate(_PLAIN)
    return text.lower() if lowercase else text


def _message(model: bytes) -> Any:  # noqa: ANN401 (a ModelProto)
    from sentencepiece import sentencepiece_model_pb2 as messages

    return messages.ModelProto.FromString(model)  # type: ignore[attr-defined]


def ends_in_comma(token: str) -> bool:
    """Whether a piece is digits and the comma after them, which ALBERT takes apart."""
    return len(token) > 1 and token[-1] == "," and token[-2].isdigit()


def _settled(model: bytes) -> bytes:
    """A unigram model with which every program cuts a text alike.

    Its scores are multiples of 1/256, whose sums have no rounding, neither in float32 nor in float64: so of several
    ways that are equally likely the same is taken. Pieces that would be taken apart again are not found first.
    """
    proto = _message(model)
    for piece in proto.pieces:
        piece.score = round(piece.score * 256) / 256 - AVOIDED * ends_in_comma(piece.piece)
    return bytes(proto.SerializeToString())


def _with_control(model: bytes, specials: Sequence[str]) -> bytes:
    """A model whose special tokens are never found in a text (some declare [MASK] as a word of the user's)."""
    proto = _message(model)
    for piece in proto.pieces:
        if piece.piece in specials and piece.type != piece.UNKNOWN:
            piece.type = piece.CONTROL
    return bytes(proto.SerializeToString())
