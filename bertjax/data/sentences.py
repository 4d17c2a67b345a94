"""Sentences of prose."""

from __future__ import annotations

import re

_CLOSING = "\"'”’»)\\]」』）"
# Each run of full stops is tried once, from its start, and never given back: linear in the text.
_END = re.compile(rf"(?<![.!?…。！？])[.!?…。！？]++[{_CLOSING}]*+(\s*+)")
_OPENING = "\"'“‘«([「『（"
_ABBREVIATION = re.compile(
    "mr|mrs|ms|messrs|dr|st|prof|rev|hon|gen|col|capt|lt|sgt|maj|gov|sen|rep|pres|esq|jr|sr|mme|mlle|mt|ft|vs|cf|vol|"
    "pp|ch|ed|fig|approx|dept|inc|ltd|co|corp|bros|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|e\\.g|i\\.e",
    re.IGNORECASE,
)
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-HJ-Za-z]|(?:[A-Za-z]\.)+I")  # "I." alone ends "So do I."


def split_sentences(text: str) -> list[str]:
    """Sentences of prose, in linear time: English with its abbreviations and quotes, Korean, and CJK full stops."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, match, start):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, match: re.Match[str], start: int) -> bool:
    mark = match.group()
    if mark[0] in "。！？":
        return True
    following = text[match.end()]
    if not match.group(1) or following.islower():
        return False
    if mark.rstrip() != ".":
        return True
    words = text[max(start, match.start() - 20) : match.start()].split()
    word = words[-1].lstrip(_OPENING) if words else ""
    if word.isdigit() and following.isdigit():  # a Korean date: 1990. 3. 5.
        return False
    return not _ABBREVIATION.fullmatch(word) and not _INITIALS.fullmatch(word)
