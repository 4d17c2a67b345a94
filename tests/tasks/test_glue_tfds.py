"""GLUE as tensorflow-datasets prepares it: a builder of ours with the features, splits and labels of theirs."""

import sys
import warnings

import numpy as np
import pytest

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import ConfigError, DataError, MissingData

TWO, THREE = ["entailment", "not_entailment"], ["entailment", "neutral", "contradiction"]
CONFIGS = {  # texts, classes, split -> rows
    "mrpc": (
        ("sentence1", "sentence2"),
        ["not_equivalent", "equivalent"],
        {"train": [('A "b"', "한국", 1), ("C", "D", 0)], "validation": [("E", "F", 1)], "test": [("G", "H", -1)]},
    ),
    "cola": (("sentence",), ["unacceptable", "acceptable"], {"validation": [("One.", 1), ("Two.", 0), ("Three.", 1)]}),
    "stsb": (("sentence1", "sentence2"), None, {"train": [("A", "B", 2.5)], "test": [("A", "B", -1.0)]}),
    "qnli": (("question", "sentence"), TWO, {"validation": [("Q?", "A.", 0), ("Q?", "B.", 1)]}),
    "mnli": (
        ("premise", "hypothesis"),
        THREE,
        {
            "validation_matched": [("P", "H", 2)],
            "validation_mismatched": [("P", "I", 1)],
            "test_matched": [("P", "J", -1)],
        },
    ),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        class Glue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("2.0.0")
            BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name, version="2.0.0") for name in CONFIGS)

            def _info(self):
                texts, classes, _ = CONFIGS[self.builder_config.name]
                features = {name: tfds.features.Text() for name in texts}
                features["label"] = tfds.features.ClassLabel(names=classes) if classes else np.float32
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict({**features, "idx": np.int32})
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(rows) for split, rows in self.ours[2].items()}

            @property
            def ours(self):
                return CONFIGS[self.builder_config.name]

            def _generate_examples(self, rows):
                for i, row in enumerate(rows):
                    yield i, {**dict(zip((*self.ours[0], "label"), row, strict=True)), "idx": i}

        for name in CONFIGS:
            Glue(config=name, data_dir=str(folder), file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
    return folder


@pytest.mark.parametrize(
    ("name", "spec", "split", "rows"),
    [
        ("mrpc", "tfds:glue/mrpc", "train", [Row('A "b"', "한국", 1), Row("C", "D", 0)]),
        ("mrpc", "tfds:glue/mrpc:2.0.0", "dev", [Row("E", "F", 1)]),
        ("mrpc", "tfds:glue", "test", [Row("G", "H", None)]),
        ("cola", "tfds:glue", "dev", [Row("One.", None, 1), Row("Two.", None, 0), Row("Three.", None, 1)]),
        ("stsb", "tfds:glue", "train", [Row("A", "B", 2.5)]),
        ("stsb", "tfds:glue", "test", [Row("A", "B", None)]),
        ("qnli", "tfds:glue/qnli", "dev", [Row("Q?", "A.", 0), Row("Q?", "B.", 1)]),
        ("mnli", "tfds:glue", "dev", [Row("P", "H", 2)]),
        ("mnli", "tfds:glue", "dev_mismatched", [Row("P", "I", 1)]),
        ("mnli", "tfds:glue", "test", [Row("P", "J", None)]),
    ],
)
def test_rows_are_those_of_the_files_in_their_order(prepared, name, spec, split, rows):
    assert tasks.find(name).read(f"{spec}@{prepared}", split) == rows
    assert "tensorflow" not in sys.modules


def test_what_is_not_there_is_told_with_the_command_that_prepares_it(prepared):
    with pytest.raises(MissingData) as error:
        tasks.find("rte").read(f"tfds:glue@{prepared}", "dev")
    message = str(error.value)
    assert f"not prepared in {prepared}" in message and "tfds:NAME@DIR" in message
    assert f"tfds build glue/rte --file_format array_record --data_dir {prepared}" in message
    with pytest.raises(DataError, match="no split 'train'; it has: validation"):
        tasks.find("cola").read(f"tfds:glue@{prepared}", "train")
    with pytest.raises(DataError, match="is not the data set of rte; try tfds:glue/rte"):
        tasks.find("rte").read(f"tfds:glue/stsb@{prepared}", "test")
    with pytest.raises(ConfigError, match="is read for the tasks of GLUE; give the folder with the files of nsmc"):
        tasks.find("nsmc").read("tfds:nsmc", "train")
