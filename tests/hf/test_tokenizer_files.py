"""The tokenizer.json that is written: the library it is for gives our ids, and we read our own tokenizer from it."""

import json

import pytest
import tokenizers

from bertjax.data import tokenizer_json
from bertjax.data.library import LibraryTokenizer
from bertjax.data.tokenizer import Tokenizer
from bertjax.hf.tokenizer_files import write

TEXTS = ["The cat sat on the mat, twice.", "Ünï çødé, cafés and 東京!", "it's 5,000 (or so)", "", "y" * 150]
KINDS = [("wordpiece", True), ("wordpiece", False), ("bpe", True), ("bpe", False)]


@pytest.fixture(params=KINDS, ids=str)
def tokenizer(request):
    kind, lowercase = request.param
    return Tokenizer.train(TEXTS * 3, 400, lowercase=lowercase, kind=kind)


def test_the_library_gives_our_ids(tokenizer, tmp_path):
    write(tokenizer, tmp_path, 64)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS] == tokenizer.encode_batch(TEXTS)
    a, b = tokenizer.encode_batch(TEXTS[:2])
    for pair in (None, TEXTS[1]):
        tokens, types = tokenizer.pair_ids(a, None if pair is None else b)
        found = theirs.encode(TEXTS[0], pair)
        assert (found.ids, found.type_ids) == (tokens.tolist(), types.tolist())


def test_we_read_the_same_tokenizer_from_each_of_its_files(tokenizer, tmp_path):
    write(tokenizer, tmp_path, 64)
    assert Tokenizer.load(tmp_path).hash == tokenizer.hash
    assert tokenizer_json.read(tmp_path / "tokenizer.json").hash == tokenizer.hash


def test_what_the_configs_say(tokenizer, tmp_path):
    write(tokenizer, tmp_path, 64)
    config, special = (
        json.loads((tmp_path / name).read_text()) for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    assert config["model_max_length"] == 64 and config["do_lower_case"] == tokenizer.lowercase
    assert special == {f"{role}_token": name for role, name in tokenizer.specials._asdict().items()}
    assert special.items() <= config.items()


def test_a_sentencepiece_model_goes_as_it_is(tmp_path):
    tokenizer = Tokenizer.train(TEXTS * 30, 60, lowercase=True, kind="sentencepiece-bpe")
    write(tokenizer, tmp_path, 64)
    assert not (tmp_path / "tokenizer.json").exists()
    assert Tokenizer.load(tmp_path).hash == tokenizer.hash


@pytest.mark.parametrize("separators", [1, 2])
def test_a_pipeline_of_the_library_s_goes_as_it_is(tmp_path, separators):
    write(Tokenizer.train(TEXTS * 3, 400, lowercase=False, kind="bpe"), tmp_path, 64)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}  # none of our own kinds has it
    if separators == 2:
        data["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": ["</s>", 3],
            "cls": ["<s>", 2],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
    file.write_text(json.dumps(data))
    tokenizer = tokenizer_json.read(file)
    assert isinstance(tokenizer, LibraryTokenizer)
    write(tokenizer, tmp_path / "out", 64, types=1)
    again = tokenizer_json.read(tmp_path / "out" / "tokenizer.json")
    assert again.hash == tokenizer.hash
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    expected = theirs.encode(TEXTS[0], TEXTS[1]).ids
    assert again.pair_ids(*again.encode_batch(TEXTS[:2]))[0].tolist() == expected
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
