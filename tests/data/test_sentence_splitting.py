import time

import pytest

from bertjax.data.sentences import split_sentences


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("He sat. She ran.", ["He sat.", "She ran."]),
        (
            "Mr. Smith met Dr. J. R. Jones on St. James St. today. He left.",
            ["Mr. Smith met Dr. J. R. Jones on St. James St. today.", "He left."],
        ),
        (
            "The U.S. Army, e.g. The I.B.M. Co. It cost 3.14 dollars.",
            ["The U.S. Army, e.g. The I.B.M. Co. It cost 3.14 dollars."],
        ),
        (
            '"Really?" she said. "Yes." He nodded... and left.',
            ['"Really?" she said.', '"Yes."', "He nodded... and left."],
        ),
        ("So do I. You too! (Or not?) Fine", ["So do I.", "You too!", "(Or not?)", "Fine"]),
        ("나는 학교에 간다. 너는 어디 가요? 집에 가요!", ["나는 학교에 간다.", "너는 어디 가요?", "집에 가요!"]),
        ("그는 1990. 3. 5. 태어났다. 끝이다.", ["그는 1990. 3. 5.", "태어났다.", "끝이다."]),
        ("今日は。「元気？」はい！", ["今日は。", "「元気？」", "はい！"]),
        ("", []),
        ("...", ["..."]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("noise", [".", ". ", '."', '"', "a", "?! ", "。"])
def test_sentences_take_linear_time(noise):
    def seconds(size):
        start = time.process_time()
        split_sentences(noise * size)
        return time.process_time() - start

    seconds(1000)
    assert seconds(200_000) < 40 * max(seconds(20_000), 0.002)
