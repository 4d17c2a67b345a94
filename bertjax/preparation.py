"""`bertjax prepare`: text files to a tokenizer and shards of tokens."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from bertjax.config import Prepare
from bertjax.data import corpus, shards
from bertjax.data.journal import Journal
from bertjax.data.lines import BYTES
from bertjax.data.meta import FEW_SENTENCES, Meta, sentences_a_document
from bertjax.data.sentences import split_sentences
from bertjax.data.tokenizer import Tokenizer
from bertjax.train.log import console


def prepare(config: Prepare) -> None:
    """Text files -> tokenizer and token shards."""
    counts: Counter[str] = Counter()
    sources = corpus.identities(config.corpus, config.data_dir)
    given = Tokenizer.load(config.tokenizer) if config.tokenizer else None
    journal = Journal(Path(config.out), _inputs(config, sources, given))
    if journal.entries:
        console.print(f"prepare: goes on from {len(journal.entries)} whole shards in {config.out}")
    elif journal.foreign:
        console.print(f"prepare: removes what a preparation of other text or with other options left in {config.out}")
    with _progress() as progress:
        bar = progress.add_task("training the vocabulary", total=sum(size for _, size, _ in sources), figures="")

        def documents() -> Iterator[list[str]]:
            counts.clear()
            for document in corpus.documents(
                config.corpus,
                wrapped=config.wrapped,
                text_column=config.text_column,
                caps=corpus.Caps(config.max_line, config.max_document),
                deduplicate=config.deduplicate,
                data_dir=config.data_dir,
                counts=counts,
            ):
                progress.update(bar, completed=counts[BYTES])
                yield document

        tokenizer = given or journal.tokenizer()
        if tokenizer is None:
            tokenizer = Tokenizer.train(
                chain.from_iterable(documents()),
                config.vocab_size,
                lowercase=config.lowercase,
                kind=config.tokenizer_kind,
                sentences=split_sentences,
                sample=config.sample_characters,
                workers=config.workers,
            )
        progress.update(bar, description="tokenising")
        meta = shards.write(
            documents(),
            tokenizer,
            config.out,
            held_out=config.held_out,
            seed=config.seed,
            counts=counts,
            sentences=corpus.sentences,
            shard_tokens=config.shard_tokens,
            workers=config.workers,
            journal=journal,
            progress=lambda done, tokens: progress.update(bar, figures=f"{done:,} documents  {tokens:,} tokens"),
        )
    _tell(config, meta, counts)


def _tell(config: Prepare, meta: Meta, counts: Counter[str]) -> None:
    """What has come of it."""
    for split in meta.splits:
        done, tokens = meta.total(split, "documents"), meta.total(split, "tokens")
        console.print(f"prepare: {config.out} {split}: {done:,} documents, {tokens:,} tokens")
    all_there = config.tokenizer or meta.vocab_size >= config.vocab_size
    few = "" if all_there else f", all that the text gives of {config.vocab_size:,}"
    console.print(f"prepare: vocabulary of {meta.vocab_size:,}{few}; what is in the corpus: {config.out}/report.html")
    if (mean := sentences_a_document([meta])) < FEW_SENTENCES:
        console.print(
            f"prepare: {mean:.2f} sentences a document, which are few for pairs (NSP, SOP); do blank lines part "
            "sentences, not documents?"
        )
    for reason, count in sorted(counts.items()):
        console.print(f"prepare: {reason}: {count:,}")


def _inputs(config: Prepare, sources: Sequence[tuple[str, int, int]], tokenizer: Tokenizer | None) -> str:
    """A hash of all that a preparation depends on."""
    options = {**asdict(config), "out": "", "workers": 0, "tokenizer": tokenizer and tokenizer.hash}
    return hashlib.sha256(json.dumps([options, sources]).encode()).hexdigest()


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=16), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[figures]}"), console=console, transient=True)
