"""report.json and report.html of a prepared corpus: what is in it, what was left out and why, how it was cut up."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bertjax.data.meta import Meta, sentences_a_document
from bertjax.data.tally import Tally
from bertjax.paths import write_text


def write(folder: Path, meta: Meta, tally: Tally, samples: Sequence[Sequence[str]]) -> None:
    """Write both files, each in one step."""
    report = contents(meta, tally, samples)
    for name, text in (
        ("report.json", json.dumps(report, indent=1, ensure_ascii=False)),
        ("report.html", page(report)),
    ):
        write_text(folder / name, text + "\n")


def contents(meta: Meta, tally: Tally, samples: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What report.json says. Fertility is tokens per white-space word; `unknown_rate` the share of [UNK] in tokens."""
    what = ("documents", "sentences", "tokens")
    tokens = sum(meta.total(split, "tokens") for split in meta.splits)
    return {
        "splits": {
            split: {**{name: meta.total(split, name) for name in what}, "shards": len(files)}
            for split, files in meta.splits.items()
        },
        "vocabulary": meta.vocab_size,
        "tokenizer_hash": meta.tokenizer_hash,
        "sentences_a_document": round(sentences_a_document([meta]), 4),
        "words": tally.words,
        "fertility": round(tokens / max(tally.words, 1), 4),
        "unknown": tally.unknown,
        "unknown_rate": round(tally.unknown / tokens, 6),
        "counts": meta.counts,
        "sentence_lengths": _ranges(tally.sentence_lengths),
        "document_lengths": _ranges(tally.document_lengths),
        "samples": [list(row) for row in samples],
    }


def _ranges(histogram: Sequence[int]) -> list[dict[str, int]]:
    """The buckets from the first that holds something to the last, as tokens from, to and count."""
    held = [bucket for bucket, count in enumerate(histogram) if count]
    return [
        {"from": 1 << bucket, "to": (2 << bucket) - 1, "count": histogram[bucket]}
        for bucket in range(held[0], held[-1] + 1)
    ]


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.15em 1em .15em 0;text-align:right}
td:first-child,th:first-child{text-align:left}th{border-bottom:1px solid #999;font-weight:600}
.bar{background:#4a7ebb;height:.8em;display:inline-block}.bars td:last-child{text-align:left;width:25em}
code{background:#eef2f7;border-radius:3px;padding:0 .25em;margin-right:.3em;display:inline-block}"""


def page(report: dict[str, Any]) -> str:
    """The same as one HTML file that needs nothing else."""
    splits = report["splits"]
    columns = list(next(iter(splits.values())))
    figures = [
        ("vocabulary", f"{report['vocabulary']:,}"),
        ("sentences a document (train)", f"{report['sentences_a_document']:.2f}"),
        ("white-space words", f"{report['words']:,}"),
        ("fertility (tokens per word)", f"{report['fertility']:.3f}"),
        ("unknown tokens", f"{report['unknown']:,} ({report['unknown_rate']:.4%})"),
    ]
    left_out = [(reason, f"{count:,}") for reason, count in sorted(report["counts"].items())]
    rows = "\n".join(
        "<p>" + "".join(f"<code>{html.escape(piece)}</code>" for piece in row) + "</p>" for row in report["samples"]
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Prepared corpus</title><style>{STYLE}</style></head><body>
<h1>Prepared corpus</h1>
{_table(["split", *columns], [(split, *(f"{row[name]:,}" for name in columns)) for split, row in splits.items()])}
{_table(["", ""], figures)}
<h2>Read, mended, dropped</h2>
{_table(["what", "how many"], left_out)}
<h2>Tokens in a sentence</h2>
{_bars(report["sentence_lengths"])}
<h2>Tokens in a document</h2>
{_bars(report["document_lengths"])}
<h2>Sentences as the model sees them</h2>
{rows}
</body></html>"""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _bars(ranges: Sequence[dict[str, int]]) -> str:
    most = max(bucket["count"] for bucket in ranges)
    rows = [
        f"<tr><td>{bucket['from']:,} to {bucket['to']:,}</td><td>{bucket['count']:,}</td>"
        f'<td><span class="bar" style="width:{100 * bucket["count"] / most:.1f}%"></span></td></tr>'
        for bucket in ranges
    ]
    return '<table class="bars">' + "".join(rows) + "</table>"
