"""Mistakes on the command line: exit code 2, one message that names the cure, and nothing written before is lost."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from bertjax import api, chips, run, scoring
from bertjax.config import Prepare
from bertjax.data import shards
from bertjax.data.meta import Meta
from bertjax.data.vocabulary_files import hub_hint
from bertjax.folders import check_file
from bertjax.lock import held
from bertjax.preparation import prepare

# {home}, {data}, {pretrained}, {finetuned} are made by the fixtures, {tmp} is empty and {new} is not there.
PREPARE = "prepare --out {new} --corpus"
PRETRAIN = "pretrain {home}/pretrain.py --data {data} --out {new}"
AGAIN = "pretrain {home}/pretrain.py --data {data} --out {pretrained}"
FINETUNE = "finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {home} --out {new}"
PREDICT = "predict {finetuned} --out {new}/p.tsv --input"

OPTIONS = [
    ("", ["usage: bertjax VERB", "pretrain"]),
    ("pretrian", ["'pretrian'", "did you mean 'pretrain'?"]),
    ("bogus", ["'bogus'", "choose from: convert, doctor, embed, evaluate"]),
    (PRETRAIN + " --stepz 3", ["--stepz", "--steps"]),
    (PRETRAIN + " --modl.width 64", ["--modl.width", "--model.width"]),
    (PRETRAIN + " surplus", ["surplus", "--help"]),
    (PRETRAIN + " --steps many", ["--steps", "'many'"]),
    (PRETRAIN + " --steps 2.5", ["--steps", "'2.5'"]),
    (PRETRAIN + " --optimizer.peak-lr fast", ["--optimizer.peak-lr", "'fast'"]),
    (PRETRAIN + " --model.dtype float31", ["--model.dtype", "float31", "bfloat16"]),
    (PRETRAIN + " --steps", ["--steps"]),
    (PRETRAIN + " --model.width 130 --model.heads 4", ["model.width=130", "model.heads=4", "128, 132"]),
    (PRETRAIN + " --model.heads 3", ["model.width=32", "model.heads=3", "30, 33"]),
    (PRETRAIN + " --model.activation gleu", ["'gleu'", "did you mean 'gelu'?"]),
    (PRETRAIN + " --model.dropout 1", ["model.dropout=1.0", "[0, 1)"]),
    (PRETRAIN + " --optimizer.kind adam", ["optimizer.kind='adam'", "adamw"]),
    (PRETRAIN + " --objective.masking.rate 15", ["objective.masking.rate=15.0", "0.15"]),
    (PRETRAIN + " --objective.examples pairs", ["--objective.examples", "pairs", "doc-sentences"]),
    (PRETRAIN + " --model.type-count 1", ["model.type_count=1", "set model.type_count=2"]),
    (PRETRAIN + " --objective.masking.kind words", ["--objective.masking.kind", "words", "ngram"]),
    (PRETRAIN + " --length 64", ["length=64", "model.max_length=40"]),
    (PRETRAIN + " --data-weights 1 2", ["data_weights=1 2", "for each of the 1 folders"]),
    (PRETRAIN + " --data-weights 0", ["data_weights=0", "above 0"]),
    (PRETRAIN + " --data-weights nan", ["data_weights=nan is not a finite number"]),
    (PRETRAIN + " --optimizer.peak-lr nan", ["optimizer.peak_lr=nan is not a finite number"]),
    (PRETRAIN + " --optimizer.warmup nan", ["optimizer.warmup=nan is not"]),
    (PRETRAIN + " --optimizer.clip-norm inf", ["optimizer.clip_norm=inf is not"]),
    (PRETRAIN + " --model.norm-epsilon nan", ["model.norm_epsilon=nan is not"]),
    (PRETRAIN + " --guard.spike nan", ["guard.spike=nan is not"]),
    (PRETRAIN + " --objective.masking.mask-share nan", ["objective.masking.mask_share=nan is not"]),
    (FINETUNE + " --optimizer.weight-decay inf", ["optimizer.weight_decay=inf is not"]),
    (PRETRAIN + " --steps 0", ["steps=0", "at least 1"]),
    (PRETRAIN + " --profile 15:10", ["profile=15:10", "as 10:15"]),
    (PRETRAIN + " --profile 10", ["profile=10", "as 10:15"]),
    (FINETUNE + " --profile a:b", ["profile=a:b", "as 10:15"]),
    (PRETRAIN + " --remat block", ["--remat", "blocks"]),
    (PRETRAIN + " --preset tinny", ["--preset tinny", "did you mean 'tiny'?"]),
    (PRETRAIN + " --preset=tinny", ["--preset tinny", "did you mean 'tiny'?"]),
    (PRETRAIN + " --preset", ["--preset", "choose from: base"]),
    (PRETRAIN + " --model.vocab-size 999", ["model.vocab_size=999", "leave the option out"]),
    (PRETRAIN + " --batch-size 9 --mesh.data 2", ["batch_size=9", "data=2", "nearest: 8, 12"]),
    (PRETRAIN + " --batch-size 8 --micro-batches 3", ["batch_size=8", "micro_batches=3", "nearest: 6, 9"]),
    (PRETRAIN + " --batch-size 1 --mesh.data 2 --dry-run", ["batch_size=1", "nearest: 4"]),
    (PRETRAIN + " --mesh.fsdp 3 --mesh.tensor 3", ["needs 9 devices", "here are 8", "--mesh.fsdp"]),
    (PRETRAIN + " --mesh seq=8 --later-phases 0.5 36 8", ["length=36", "seq=8", "nearest: 32, 40"]),
    (FINETUNE + " --mesh data=1,seq=8 --buckets 12 24", ["length=12", "seq=8", "nearest: 8, 16"]),
    (PRETRAIN + " --mesh data=2 --mesh.data 4", ["--mesh data=2: data given more than once"]),
    (PRETRAIN + " --mesh data=2 --mesh fsdp=4", ["--mesh is given more than once"]),
    (PRETRAIN + " --length 40 --batch-size 24 --dry-run", ["valid", "do not fill one batch of 24 rows"]),
    (PRETRAIN + " --mesh.tensor 0", ["tensor=0", "at least 1"]),
    ("pretrain", ["first argument is a recipe", "configs/"]),
    ("pretrain --data {data} --out {new}", ["first argument is a recipe", "configs/"]),
    ("pretrain {home}/nowhere.py --data {data} --out {new}", ["nowhere.py", "configs/"]),
    ("pretrain {home}/finetune.py --data {data} --out {new}", ["gives a Finetune", "needs a Pretrain"]),
    ("pretrain {home}/pretrain.py", ["missing: --data, --out"]),
    ("finetune {home}/finetune.py --task cola", ["missing: --from, --data, --out"]),
    (FINETUNE + " --task colla", ["'colla'", "did you mean 'cola'?"]),
    (FINETUNE + " --task-settings stride=64", ["sms_spam has no setting 'stride' and no other"]),
    (FINETUNE + " --encoder randon", ["--encoder", "randon", "pretrained"]),
    (FINETUNE + " --length 41", ["length=41", "model.max_length=40"]),
    (FINETUNE + " --train-rows 65", ["train_rows=65", "64 rows"]),
    (FINETUNE + " --train-rows 5", ["batch_size=8", "5 examples"]),
    ("prepare --corpus {home}/corpus.txt", ["missing: --out"]),
    ("prepare --out {new}", ["missing: --corpus"]),
    (PREPARE + " {home}/corpus.txt --held-out 0.7", ["held_out=0.7", "below 0.5"]),
    (PREPARE + " {home}/corpus.txt --vocab-size 3", ["vocab"]),
    ("evaluate", ["missing: RUN, --data"]),
    ("evaluate {finetuned} --data {home} --split devv", ["'devv'", "did you mean 'dev'?"]),
    ("evaluate {finetuned} --data {home} --batch-size 0", ["batch_size=0"]),
    ("predict {finetuned}", ["missing: --input, --out"]),
    ("predict {finetuned} --input x --out {tmp}/p.csv", ["p.csv: .tsv or .jsonl is what is written"]),
    ("embed {finetuned} --input x --out {tmp}/p.txt", ["p.txt: .npy is what is written"]),
    ("list task", ["'task'", "did you mean 'tasks'?"]),
    ("list --all", ["--all", "bertjax list --help"]),
    ("inspect", ["missing: CONFIG.py or RUN", "bertjax inspect --help"]),
    ("inspect {home}/pretrain.py --preset tinny", ["--preset tinny", "did you mean 'tiny'?"]),
    ("inspect {home}/pretrain.py --preset", ["missing: what --preset is to be"]),
    ("inspect {pretrained} --preset tiny", ["--preset tiny is for a recipe"]),
    ("report", ["missing: RUN", "bertjax report --help"]),
    ("report {pretrained} --verify", ["--verify is not what it takes", "bertjax report --help"]),
    ("supervise", ["python -m bertjax.supervise bertjax pretrain"]),
    ("export {pretrained}", ["bertjax convert --from RUN --to DIR"]),
]

FOLDERS = [
    (PREPARE + " {home}/nowhere.txt", ["nowhere.txt", "no such file"]),
    (PREPARE + " {home}", ["a folder", "*.txt"]),
    (PREPARE + " {home}/corpus.txt --tokenizer {home}/nowhere", ["nowhere", "vocab.txt"]),
    ("prepare --corpus {home}/corpus.txt --out {data}", ["holds a prepared corpus already", "another folder"]),
    ("pretrain {home}/pretrain.py --data {home} --out {new}", ["not a prepared corpus", "bertjax prepare"]),
    ("pretrain {home}/pretrain.py --data {data} --out {finetuned}", ["is a finetune run", "another --out"]),
    ("pretrain {home}/pretrain.py --data {data} --out {home}/dev.tsv", ["dev.tsv"]),
    (FINETUNE + " --from {home}/nowhere", ["nowhere", "no such run", "bertjax pretrain"]),
    (
        FINETUNE + " --from bert-base-uncased",
        ["no such run", "`hf download bert-base-uncased --local-dir DIR`"],
    ),
    (FINETUNE + " --from google/bert_small", ["no such run", "`hf download google/bert_small --local-dir DIR`"]),
    (PREPARE + " {home}/corpus.txt --tokenizer bert-base", ["no such vocabulary", "hf download bert-base --local-dir"]),
    (FINETUNE + " --from {data}", ["no checkpoints/", "--out folder"]),
    (FINETUNE + " --out {pretrained}", ["is a pretrain run", "another --out"]),
    (FINETUNE + " --data {data}", ["train.tsv", "sms_spam/"]),
    ("evaluate {pretrained} --data {home}", ["is a pretrain run", "bertjax finetune"]),
    ("evaluate {home} --data {home}", ["no checkpoints/"]),
    ("evaluate {home}/nowhere --data {home}", ["no such run", "bertjax finetune"]),
    ("evaluate {finetuned} --data {home}/nowhere", ["dev.tsv", "--data"]),
    ("inspect {home}/nowhere", ["nowhere", "no such run"]),
    ("inspect {home}/nowhere.py", ["nowhere.py", "no such recipe"]),
    ("inspect {home}", ["no checkpoints/"]),
    ("report {home}/nowhere", ["nowhere", "no such file", "pretrain and finetune"]),
    ("report {data}", ["config.json", "pretrain and finetune"]),
]

RESUMES = [
    (AGAIN + " --model.layers 2", ["model.layers: was 1, now 2"]),
    (AGAIN + " --preset tiny --model.max-length 40", ["model.width: was 32, now 128", "model.layers: was 1, now 2"]),
    (AGAIN + " --steps 20 --seed 3", ["steps: was 16, now 20", "seed: was 0, now 3"]),
    (AGAIN + " --optimizer.kind lamb", ["optimizer.kind: was 'bert-adam', now 'lamb'"]),
    (AGAIN + " --objective.masking.rate 0.2 0.1", ["objective.masking.rate: was (0.15,), now (0.2, 0.1)"]),
    (FINETUNE + " --out {finetuned} --epochs 4", ["epochs: was 6, now 4"]),
    (FINETUNE + " --out {finetuned} --encoder random", ["encoder: was 'pretrained', now 'random'"]),
]

INPUTS = [
    (b"", ["the file is empty"]),
    (b"text\n", ["only a header"]),
    (b"id\ttext\n1\ta cat\n2\n", [":3:", "1 fields instead of 2"]),
    (b"id\twords\n1\ta cat\n", [":1:", "header with text or sentence,", "add the header"]),
    (b"text\na cat\n\xff\xfe\n", [":3:", "not UTF-8", "iconv"]),
]
JSON_INPUTS = [
    (b'{"text": "a"}\n{"text": \n', [":2:", "not JSON"]),
    (b'{"text": "a"}\n["a"]\n', [":2:", "not a JSON object"]),
    (b'{"txt": "a"}\n', [":1:", "'text'"]),
    (b'{"text": 3}\n', [":1:", "'text'", "string"]),
]

CORPORA = [
    (b"", ["no text"]),
    (b" \n\n \n", ["no text"]),
    ("Café olé.\n\nÉté déjà.\n".encode("latin-1"), [":3:", "not UTF-8", "iconv -f LATIN1"]),
    ("Some text.\n\nMore text.\n".encode("utf-16"), [":1:", "UTF-16", "iconv"]),
]

TASK_FILES = [
    (b"", ["train.tsv", "the file is empty"]),
    (b"ham\ta cat\nham\n", ["train.tsv:2", "1 fields instead of 2 (label, text)"]),
    (b"ham\ta cat\nspam\ta\tdog\n", ["train.tsv:2", "3 fields instead of 2"]),
    (b"ham\ta cat\nspamm\ta dog\n", ["train.tsv:2", "'spamm' is not one of ham, spam"]),
    (b"ham\ta cat\nspam\ta d\xe9g\n", ["train.tsv:2", "not UTF-8", "iconv"]),
]


@pytest.fixture
def refused(bertjax, home, data, pretrained, finetuned, tmp_path):
    """refused(command, fragments) runs it and checks that it fails as a user's mistake should."""
    places = {"home": home, "data": data, "pretrained": pretrained, "finetuned": finetuned, "tmp": tmp_path}

    def call(command, fragments, **more):
        where = {**places, "new": tmp_path / "new", **more}
        outcome = bertjax(*(part.format(**where) for part in command.split(" ") if part))
        text = outcome.out if not command else outcome.err
        assert outcome.code == 2, outcome
        assert "Traceback" not in text
        assert command == "" or not outcome.out
        # tyro's messages end with its hint, ours begin with the command; there is one of either kind.
        ours = sum(line.startswith("bertjax ") for line in text.split("\n"))
        assert text.count("For full helptext") + ours == (command != ""), text
        plain = " ".join(text.replace("│", " ").split())
        for fragment in fragments:
            assert fragment in plain, text
        return outcome

    return call


def named(cases):
    return pytest.mark.parametrize(("command", "fragments"), cases, ids=lambda v: v if isinstance(v, str) else "")


@named(OPTIONS)
def test_options(refused, tmp_path, command, fragments):
    refused(command, fragments)
    assert not (tmp_path / "new").exists()


@named(FOLDERS)
def test_folders_that_are_not_what_is_wanted(refused, unchanged, home, tmp_path, command, fragments):
    same = unchanged(home)
    refused(command, fragments)
    same()
    assert not (tmp_path / "new" / "meta.json").exists()


@named(RESUMES)
def test_a_run_is_not_resumed_as_another(refused, unchanged, home, command, fragments):
    same = unchanged(home)
    refused(command, [*fragments, "Give the old values", "another --out"])
    same()


@pytest.mark.parametrize(("content", "fragments"), CORPORA)
def test_corpora(refused, tmp_path, content, fragments):
    (tmp_path / "corpus.txt").write_bytes(content)
    refused(PREPARE + " {tmp}/corpus.txt", fragments)
    assert not (tmp_path / "new" / "meta.json").exists()


@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_shards_are_looked_for_before_anything_is_computed(refused, data, tmp_path, monkeypatch, how):
    shard = shutil.copytree(data, tmp_path / "copied") / Meta.load(data).splits["train"][-1].name
    size = shard.stat().st_size
    if how == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    told = f"{shard.name}: missing" if how == "missing" else f"{shard.name}: {size - 1:,} bytes, {size:,} were written"
    monkeypatch.setattr(shards, "read_shard", None)
    cure = f"copy {tmp_path}/copied again from where it is whole, or remove it and run `bertjax prepare` again"
    outcome = refused(PRETRAIN + " --data {tmp}/copied", [told, cure])
    assert "compiling" not in outcome.err and not (tmp_path / "new").exists()


def test_chips_for_which_this_compiler_crashes(refused, monkeypatch):
    monkeypatch.setattr(chips, "CHIPS", {"tpu7x": chips.CHIPS["tpu7x"]._replace(kind="cpu")})
    monkeypatch.setattr(chips, "version", lambda _: "0.0.42.1")
    outcome = refused(PRETRAIN, ["libtpu 0.0.42.1 crashes", "pip install --upgrade 'jax[tpu]>=0.11.2'"])
    assert "compiling" not in outcome.err


@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_an_output_is_tried_before_it_is_computed(refused, tmp_path, monkeypatch, verb):
    (tmp_path / "texts.tsv").write_text("text\na cat\n")
    name = {"embed": "o.npy", "predict": "o.tsv"}[verb]
    (tmp_path / name).mkdir()
    monkeypatch.setattr(api, "load", None)
    monkeypatch.setattr(scoring, "predictions_of", None)
    refused(f"{verb} {{finetuned}} --input {{tmp}}/texts.tsv --out {{tmp}}/{name}", [name, "give another path"])


def test_an_output_that_can_be_written_is_not_touched_before(tmp_path):
    check_file(tmp_path / "new" / "o.tsv")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "o.tsv").write_text("as it was")
    check_file(tmp_path / "o.tsv")
    assert (tmp_path / "o.tsv").read_text() == "as it was"


@pytest.mark.parametrize("path", ["vocab.txt", "taken/name", "/a/b", "./a", "a/b/c", "../a"])
def test_a_path_is_no_name_of_the_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert hub_hint(path) == ""


def test_a_warm_up_that_does_not_end_is_told(bertjax, home, data, tmp_path):
    options = ["--data", data, "--steps", 4, "--eval-batches", 1, "--out"]
    outcome = bertjax("pretrain", home / "pretrain.py", *options, tmp_path / "a", "--optimizer.warmup", 50)
    assert outcome.code == 0
    told = "optimizer.warmup=50 but the run has 4 steps: its rate rises to 0.00018 and never reaches"
    assert told in " ".join(outcome.err.split()), outcome.err
    assert "never reaches" not in bertjax("pretrain", home / "pretrain.py", *options, tmp_path / "b").err


def test_after_a_bad_corpus_the_same_folder_can_be_prepared(refused, bertjax, home, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n")
    refused(PREPARE + " {tmp}/corpus.txt", ["no text"])
    assert bertjax("prepare", "--corpus", home / "corpus.txt", "--out", tmp_path / "new").code == 0


@pytest.mark.parametrize(
    ("content", "fragments"),
    [(b'{"text": "a b"}\n{"text": ', [":2:", "not JSON"]), (b'{"txt": "a b"}\n', [":1:", 'no "text"'])],
)
def test_json_corpora(refused, tmp_path, content, fragments):
    (tmp_path / "corpus.jsonl").write_bytes(content)
    refused(PREPARE + " {tmp}/corpus.jsonl", fragments)


def test_a_little_invalid_utf8_is_mended_and_told(bertjax, home, tmp_path):
    (tmp_path / "corpus.txt").write_bytes((home / "corpus.txt").read_bytes() + b"\na caf\xe9 here.\n")
    outcome = bertjax("prepare", "--corpus", tmp_path / "corpus.txt", "--out", tmp_path / "new")
    assert outcome.code == 0 and "lines with invalid UTF-8 (mended with U+FFFD): 1" in outcome.err


def test_a_line_of_10_mb_is_cut_in_bounded_memory(home, tmp_path):
    with (tmp_path / "corpus.txt").open("w") as file:
        file.write("a cat sat on the mat " * 500_000 + "\n\n" + (home / "corpus.txt").read_text())
    # Its own peak: what the system says of children includes what this process had when it forked.
    code = "import sys; from bertjax import cli; code = cli.run(sys.argv[1:]); "
    code += "print(open('/proc/self/status').read()); sys.exit(code)"
    options = ["--corpus", tmp_path / "corpus.txt", "--out", tmp_path / "new", "--vocab-size", "120"]
    done = subprocess.run(
        [sys.executable, "-c", code, "prepare", *map(str, options)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "lines over --max-line (cut at white space): 1" in done.stderr
    assert int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) < 1_500_000


@pytest.mark.parametrize(("content", "fragments"), TASK_FILES)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_task_files(refused, home, tmp_path, split, content, fragments):
    for name in ("train.tsv", "dev.tsv"):
        shutil.copy(home / name, tmp_path / name)
    (tmp_path / f"{split}.tsv").write_bytes(content)
    refused(
        "finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {tmp} --out {new}",
        [fragment.replace("train.tsv", f"{split}.tsv") for fragment in fragments],
    )


def test_a_task_file_without_the_column(refused, tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("sentence\tlable\na cat\t1\n")
    command = "finetune {home}/finetune.py --task sst2 --from {pretrained} --data {tmp} --out {new}"
    refused(command, ["train.tsv:1", "'label'", "'sentence', 'lable'"])


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [("p.tsv", *case) for case in INPUTS] + [("p.jsonl", *case) for case in JSON_INPUTS],
)
def test_inputs_to_predict(refused, tmp_path, name, content, fragments):
    (tmp_path / name).write_bytes(content)
    refused(PREDICT + " {tmp}/" + name, [name, *fragments])
    assert not (tmp_path / "new").exists()


def test_no_input_to_predict(refused):
    refused(PREDICT + " {tmp}/nowhere.tsv", ["nowhere.tsv", "no such file"])


# -- nothing is lost ------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(pretrained, tmp_path):
    """A run that may be spoilt."""
    return shutil.copytree(pretrained, tmp_path / "copied")


def test_data_of_another_tokenizer(refused, unchanged, home, pretrained, tmp_path, copied):
    other = tmp_path / "other"
    corpus = (str(home / "corpus.txt"),)
    prepare(Prepare(corpus=corpus, out=str(other), vocab_size=70, held_out=0.15, shard_tokens=150))
    same = unchanged(copied)
    refused("pretrain {home}/pretrain.py --data {other} --out {copied}", ["vocab"], other=other, copied=copied)
    same()
    assert api.load(copied).fill_mask("the [MASK] sat", k=1)


def test_the_same_size_but_other_pieces(refused, unchanged, home, data, tmp_path, copied):
    pieces = (data / "tokenizer" / "vocab.txt").read_text().split("\n")
    pieces[-2] = "zebra"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    other = tmp_path / "other"
    corpus = (str(home / "corpus.txt"),)
    prepare(Prepare(corpus=corpus, out=str(other), tokenizer=str(tmp_path / "vocab.txt"), held_out=0.15))
    same = unchanged(copied)
    command = "pretrain {home}/pretrain.py --data {other} --out {copied}"
    refused(command, ["another vocabulary", f"--tokenizer {copied}/tokenizer"], other=other, copied=copied)
    same()


def test_other_data_of_the_same_tokenizer(refused, unchanged, home, data, tmp_path, copied):
    other = tmp_path / "other"
    corpus = (str(home / "corpus.txt"),)
    prepare(Prepare(corpus=corpus, out=str(other), tokenizer=str(data / "tokenizer"), held_out=0.15, seed=9))
    same = unchanged(copied)
    refused("pretrain {home}/pretrain.py --data {other} --out {copied}", ["other data"], other=other, copied=copied)
    same()


def test_a_tokenizer_that_the_data_was_not_made_with(refused, data, tmp_path):
    spoilt = shutil.copytree(data, tmp_path / "spoilt")
    vocabulary = spoilt / "tokenizer" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("\ncat\n", "\nzebra\n"))
    refused("pretrain {home}/pretrain.py --data {spoilt} --out {new}", ["bertjax prepare"], spoilt=spoilt)


def test_fine_tuning_with_other_rows_than_it_began_with(refused, unchanged, home, finetuned, tmp_path):
    copied = shutil.copytree(finetuned, tmp_path / "copied")
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text((home / name).read_text().replace("\tfree", "\tfee"))
    same = unchanged(copied)
    command = "finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {tmp} --out {copied}"
    command += " --baseline tfidf"
    refused(command, ["other data", "another --out"], copied=copied)
    same()


@pytest.mark.parametrize("what", ["meta.json", "train-00000.array_record", "tokenizer/vocab.txt"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_data(refused, data, tmp_path, what, how):
    spoilt = shutil.copytree(data, tmp_path / "spoilt")
    spoil(spoilt / what, how)
    refused("pretrain {home}/pretrain.py --data {spoilt} --out {new} --steps 3", ["spoilt"], spoilt=spoilt)


def spoil(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("verb", ["inspect {copied}", FINETUNE + " --from {copied}"])
def test_a_damaged_checkpoint_elsewhere(refused, copied, verb):
    for step in (copied / "checkpoints").iterdir():
        if step.is_dir():
            shutil.rmtree(step / "extra", ignore_errors=True)
    refused(verb, ["no checkpoint is whole", "copied/checkpoints and begin again"], copied=copied)


def test_a_damaged_config_in_a_report(refused, copied):
    spoil(copied / "config.json", "cut")
    refused("report {copied}", ["config.json: not JSON", "pretrain and finetune"], copied=copied)


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (FileNotFoundError(2, "No such file", "{data}"), True),
        (FileNotFoundError(2, "No such file", "{data}/train-00000.array_record"), True),
        (NotADirectoryError(20, "Not a directory", "{new}"), True),
        (PermissionError(13, "Permission denied", "{new}/checkpoints/8"), True),
        (PermissionError(13, "Permission denied", "{tmp}"), True),
        (FileNotFoundError(2, "No such file", "{new}/checkpoints/8"), False),
        (FileNotFoundError(2, "No such file", "{tmp}/text"), True),
        (FileNotFoundError(2, "No such file", "/nowhere/else"), False),
        (PermissionError(13, "Permission denied", "/nowhere/else"), False),
        (FileExistsError("gs://b/x"), False),
        (FileNotFoundError(2, "No such file", 7), False),
    ],
    ids=str,
)
def test_only_paths_that_the_user_has_named_are_theirs(refused, monkeypatch, data, tmp_path, error, theirs):
    """Else a file that another host takes away would end a job for good: 2 is not tried again."""
    if isinstance(error.filename, str):
        path = error.filename.format(data=data, new=tmp_path / "new", tmp=tmp_path)
        error = type(error)(error.errno, error.strerror, path)

    def fails(config):
        raise error

    monkeypatch.setattr(run, "pretrain", fails)
    command = "pretrain {home}/pretrain.py --data {data} {tmp} --out={new}"
    if theirs:
        refused(command, [f"{error.filename}: {error.strerror}; give another path"])
    else:
        with pytest.raises(type(error)):
            refused(command, [])


# -- as a program ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fragments"),
    [
        ("pretrian", ["did you mean 'pretrain'?"]),
        (PRETRAIN + " --stepz 3", ["--steps"]),
        (PRETRAIN + " --model.heads 3", ["model.width=32"]),
        ("evaluate {pretrained} --data {home}", ["is a pretrain run"]),
    ],
)
def test_the_program_exits_with_2(home, data, pretrained, tmp_path, command, fragments):
    arguments = command.format(home=home, data=data, pretrained=pretrained, new=tmp_path / "new").split()
    done = subprocess.run([sys.executable, "-m", "bertjax", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not done.stdout
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["pretrain", "--help"]], ids=" ".join)
@pytest.mark.parametrize("buffered", [True, False])
def test_that_nobody_reads_the_end_is_no_fault(arguments, buffered):
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "bertjax", *arguments]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done.stdout.close()  # as by `| head -1`
    assert (done.stderr.read(), done.wait(timeout=120)) == ("", 128 + signal.SIGPIPE)
    done.stderr.close()


@pytest.mark.parametrize("options", [[], ["--seeds", "0"]])
def test_a_folder_that_another_writes_in_is_left_alone(bertjax, home, data, pretrained, tmp_path, options):
    finetune = ["finetune", home / "finetune.py", "--task", "sms_spam", "--from", pretrained, "--data", home, *options]
    with held(tmp_path):
        for command in (["pretrain", home / "pretrain.py", "--data", data], finetune):
            outcome = bertjax(*command, "--out", tmp_path)
            assert outcome.code == 2 and f"{tmp_path} is being written by" in outcome.err
            assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
