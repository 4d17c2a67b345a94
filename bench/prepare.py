"""Raw text to shards: MB of text a CPU-second beside a stand-in of google-research/bert's script; memory at any size.

    python bench/prepare.py speed --text simplewiki.jsonl --vocabulary vocab.txt --peer PYTHON [--megabytes 10]
    python bench/prepare.py scale --text simplewiki.jsonl [--vocabulary vocab.txt] [--megabytes 1000] [--workers 0 1 2]

`speed`: both programs on the same text, each in a process of its own, in turn (A B A B ...), medians of CPU-seconds
from the files to the end, imports not counted. The stand-in is what create_pretraining_data.py does, over the slow
BERT tokenizer of transformers 4 (BasicTokenizer and WordpieceTokenizer, which are google-research/bert's); PYTHON is
an interpreter that has it. It gets sentences, one a line, as that script wants them, and writes nothing; ours splits
sentences and writes shards.

`scale`: `bertjax prepare` on the text repeated with one word in 30 misspelt each time anew, so that new words keep
coming as in a corpus of that size: seconds, CPU-seconds, and the peak of resident memory, of the largest process and
of all of them together.

With --out OUT (bench/results) the tables go to OUT/prepare-speed.md and OUT/prepare-scale.md, all figures to .json
beside them.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results

PUBLISHED = 0.37  # MB a CPU-second of create_pretraining_data.py itself, length 128, one copy, measured elsewhere
LENGTH, SLOTS, SHORT = 128, 20, 0.1


def main() -> None:
    """Writes a line for each program, or for each number of workers."""
    parser = results.parser(__doc__)
    parser.add_argument("what", choices=["speed", "scale", "ours", "standin"])
    parser.add_argument("--text", required=True, help='JSON lines with "text"')
    parser.add_argument("--vocabulary", default="", help="a vocab.txt, uncased; without it `scale` trains one")
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--megabytes", type=float)
    parser.add_argument("--rounds", type=results.count, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.what == "ours":
        print(json.dumps(ours(options.text, options.vocabulary)))
    elif options.what == "standin":
        print(json.dumps(standin(options.text, options.vocabulary)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            speed(options, Path(folder)) if options.what == "speed" else scale(options, Path(folder))


# -- speed ---------------------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace, folder: Path) -> None:
    """Both programs in turn."""
    from bertjax.data.corpus import sentences

    texts, size = [], 0
    for text in _texts(options.text):
        texts.append(text)
        size += len(text.encode())
        if size >= (options.megabytes or 10) * 1e6:
            break
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents = ("\n".join(sentences(text.split("\n"))) for text in texts)
    (folder / "sentences.txt").write_text("\n\n".join(documents) + "\n")
    commands = {
        "bertjax prepare": [sys.executable, __file__, "ours", "--text", str(folder / "text.jsonl")],
        "stand-in": [options.peer, __file__, "standin", "--text", str(folder / "sentences.txt")],
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            output = subprocess.check_output([*command, "--vocabulary", options.vocabulary])
            found[name].append(json.loads(output.split(b"\n")[-2]))
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        rate, spread = size / 1e6 / medians[name], results.spread((run["seconds"] for run in runs), 1)
        faster = medians["stand-in"] / medians[name]
        rows.append((name, spread, f"{rate:.2f}", f"{faster:.1f}", f"{rate / PUBLISHED:.1f}"))
    head = ("program", "CPU-s, median (range)", "MB a CPU-s", "times the stand-in", f"times the published {PUBLISHED}")
    one = found["bertjax prepare"][0]
    note = f"{size / 1e6:.1f} MB of text; a token takes {one['bytes'] / one['tokens']:.2f} bytes in our shards."
    versions = {"bertjax prepare": results.versions(sys.executable), "stand-in": results.versions(options.peer)}
    lines = [*results.table(head, rows), "", note]
    results.write(options.out, "prepare-speed", lines, {"bytes": size, "runs": found}, versions)


def ours(text: str, vocabulary: str) -> dict[str, float]:
    """JSON lines to shards in this process."""
    from collections import Counter

    from bertjax.data import corpus, shards
    from bertjax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(vocabulary)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as out:
        began = time.process_time()
        documents = corpus.documents([text], counts=counts)
        meta = shards.write(documents, tokenizer, out, held_out=0.01, seed=0, counts=counts, sentences=corpus.sentences)
        seconds = time.process_time() - began
        size = sum(path.stat().st_size for path in Path(out).glob("*.array_record"))
    return {"seconds": seconds, "bytes": size, "tokens": sum(meta.total(split, "tokens") for split in meta.splits)}


def standin(text: str, vocabulary: str) -> dict[str, float]:
    """Sentences to masked NSP pairs in memory, as create_training_instances with dupe_factor 1."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocabulary, do_lower_case=True)
    words = list(tokenizer.vocab)
    rng = random.Random(0)
    began = time.process_time()
    documents: list[list[list[str]]] = [[]]
    with open(text) as lines:
        for line in lines:
            if line.strip():
                # Without the search for special tokens in the text, which google-research/bert has not.
                documents[-1].append(tokenizer._tokenize(line.strip()))
            else:
                documents.append([])
    documents = [[sentence for sentence in document if sentence] for document in documents]
    documents = [document for document in documents if document]
    rng.shuffle(documents)
    instances = [
        tokenizer.convert_tokens_to_ids(masked(first, second, words, rng))
        for index in range(len(documents))
        for first, second in pairs(documents, index, rng)
    ]
    rng.shuffle(instances)
    return {"seconds": time.process_time() - began, "instances": len(instances)}


def pairs(documents: list[list[list[str]]], index: int, rng: random.Random) -> Iterator[tuple[list[str], list[str]]]:
    """(A, B) of a document: half of the B follow A, half come from another document."""
    document, room, at = documents[index], LENGTH - 3, 0
    while at < len(document):
        target = rng.randint(2, room) if rng.random() < SHORT else room
        stop, size = at, 0
        while stop < len(document) and size < target:
            size += len(document[stop])
            stop += 1
        middle = rng.randint(at + 1, stop - 1) if stop - at > 1 else stop
        first = [token for sentence in document[at:middle] for token in sentence]
        if stop - at > 1 and rng.random() < 0.5:
            second = [token for sentence in document[middle:stop] for token in sentence]
            at = stop
        else:
            other = documents[(index + rng.randint(1, max(1, len(documents) - 1))) % len(documents)]
            second = []
            for sentence in other[rng.randint(0, len(other) - 1) :]:
                second += sentence
                if len(second) >= target - len(first):
                    break
            at = middle
        while len(first) + len(second) > room:
            longer = first if len(first) > len(second) else second
            longer.pop(0 if rng.random() < 0.5 else -1)
        yield first, second


def masked(first: list[str], second: list[str], words: list[str], rng: random.Random) -> list[str]:
    """[CLS] A [SEP] B [SEP] with 15% of the tokens to be predicted."""
    tokens = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
    places = [place for place, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(places)
    for place in places[: min(SLOTS, max(1, round(len(tokens) * 0.15)))]:
        if rng.random() < 0.8:
            tokens[place] = "[MASK]"
        elif rng.random() < 0.5:
            tokens[place] = rng.choice(words)
    return tokens


# -- scale ---------------------------------------------------------------------------------------------------------


def scale(options: argparse.Namespace, folder: Path) -> None:
    """`bertjax prepare` on much text, with each number of workers."""
    size = _varied(Path(options.text), folder / "text.jsonl", (options.megabytes or 1000) * 1e6)
    found: list[dict[str, Any]] = []
    for workers in options.workers:
        out = folder / f"out{workers}"
        command = [sys.executable, "-c", "from bertjax.cli import main; main()", "prepare", "--corpus"]
        command += [str(folder / "text.jsonl"), "--workers", str(workers)]
        command += ["--tokenizer", options.vocabulary] if options.vocabulary else ["--vocab-size", "30522"]
        before, began = os.times(), time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
        peaks: dict[str, int] = {}
        watch = threading.Thread(target=_watch, args=(process, peaks))
        watch.start()
        if process.wait():
            sys.exit("prepare failed")
        wall, after = time.perf_counter() - began, os.times()
        watch.join()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        most, total = max(peaks.values()) / 1e3, sum(peaks.values()) / 1e3
        found.append({"workers": workers, "wall": wall, "cpu": cpu, "peak of one": most, "peak of all": total})
    rows = []
    for run in found:
        peaks_mb = (f"{run[key]:,.0f}" for key in ("peak of one", "peak of all"))
        seconds = (f"{run['wall']:.0f}", f"{run['cpu']:.0f}", f"{size / 1e6 / run['cpu']:.2f}")
        rows.append((run["workers"], *seconds, *peaks_mb))
    head = ("workers", "s", "CPU-s", "MB a CPU-s", "peak MB of a process", "peak MB of all")
    lines = [f"{size / 1e6:,.0f} MB of text.", "", *results.table(head, rows)]
    results.write(options.out, "prepare-scale", lines, {"bytes": size, "runs": found})


def _varied(source: Path, target: Path, size: float) -> int:
    """Copies of the texts, in each of which other words are misspelt; bytes of text."""
    rng, written = random.Random(0), 0
    with target.open("w") as out:
        while True:
            for text in _texts(str(source)):
                words = text.split(" ")
                for place in rng.choices(range(len(words)), k=len(words) // 30):
                    at = rng.randint(0, len(words[place]))
                    words[place] = words[place][:at] + rng.choice("aeioulnrst") + words[place][at + 1 :]
                varied = " ".join(words)
                out.write(json.dumps({"text": varied}, ensure_ascii=False) + "\n")
                written += len(varied.encode())
                if written >= size:
                    return written


def _watch(process: subprocess.Popen[bytes], peaks: dict[str, int]) -> None:
    """The highest resident memory (KB) of a process and its children until it ends, by their number."""
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for pid in [str(process.pid), *(children.read_text().split() if children.exists() else [])]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            for line in status.split("\n"):
                if line.startswith("VmHWM"):
                    peaks[pid] = int(line.split()[1])
        time.sleep(0.2)


def _texts(file: str) -> Iterator[str]:
    with open(file, "rb") as lines:
        for line in lines:
            yield json.loads(line)["text"]


if __name__ == "__main__":
    main()
