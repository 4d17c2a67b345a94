import random
from collections import Counter

import pytest

from bertjax.data import shards
from bertjax.data.tokenizer import Tokenizer

TEXT = "the a cat dog bird sat ran flew saw heard on under over mat tree house red small loud quickly"


@pytest.fixture(scope="session")
def documents():
    """60 documents of 1 to 30 sentences."""
    rng = random.Random(0)
    return [
        [" ".join(rng.choices(TEXT.split(), k=rng.randint(2, 14))) + "." for _ in range(rng.randint(1, 30))]
        for _ in range(60)
    ]


@pytest.fixture(scope="session")
def tokenizer(documents):
    return Tokenizer.train((sentence for document in documents for sentence in document), 120, lowercase=True)


@pytest.fixture(scope="session")
def prepared(documents, tokenizer, tmp_path_factory):
    """A prepared corpus of several shards."""
    out = tmp_path_factory.mktemp("prepared")
    shards.write(documents, tokenizer, out, held_out=0.1, seed=1, counts=Counter(), shard_tokens=1200)
    return out
