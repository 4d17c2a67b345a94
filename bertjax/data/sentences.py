"""Sentences of prose."""

from __future__ import annotations

import re

_MARKS = ".!?…。！？"
_CLOSING = "\"'”’»)\\]」』）"
# Each run of marks is tried once, from its start, and never given back: linear in the text. (A pattern that begins
# with a set, not with the look behind it, is found several times faster.)
_END = re.compile(rf"[{_MARKS}](?<![{_MARKS}][{_MARKS}])[{_MARKS}]*+[{_CLOSING}]*+(\s*+)")
_OPENING = "\"'“‘«([「『（"
_ABBREVIATION = re.compile(
    "(?i:mr|mrs|ms|messrs|dr|st|prof|rev|hon|gen|col|capt|lt|sgt|maj|gov|sen|rep|pres|esq|jr|sr|mme|mlle|mt|ft|vs|cf|"
    "vol|pp|ch|ed|fig|approx|dept|inc|ltd|co|corp|bros|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|e\\.g|i\\.e)|"
    "(?:[A-Za-z]\\.)*[A-HJ-Za-z]|(?:[A-Za-z]\\.)+I"  # initials; "I." alone ends "So do I."
)


def split_sentences(text: str) -> list[str]:
    """Sentences of prose, in linear time: English with its abbreviations and quotes, Korean, and CJK full stops."""
    sentences: list[str] = []
    start, size = 0, len(text)
    for match in _END.finditer(text):
        at, end = match.span()
        if end == size:
            break
        if text[at] not in "。！？":
            space, following = match.start(1), text[end]
            if space == end or following.islower():
                continue
            if space == at + 1 and text[at] == "." and _abbreviated(text[max(start, at - 20) : at], following):
                continue
        sentences.append(text[start:end].strip())
        start = end
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _abbreviated(before: str, following: str) -> bool:
    """Whether a full stop belongs to the word before it."""
    words = before.rsplit(None, 1)
    word = words[-1].lstrip(_OPENING) if words else ""
    if word.isdigit() and following.isdigit():  # a Korean date: 1990. 3. 5.
        return True
    return _ABBREVIATION.fullmatch(word) is not None
