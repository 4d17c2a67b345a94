"""The checkpoint beside this file: `pip install tensorflow-cpu==2.21.0; python make.py`. See ../test_tf1.py."""

import json
import zlib
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

HERE = Path(__file__).parent
D, F, V, L = 8, 16, 16, 12
NAMES = {"bert/embeddings/word_embeddings": (V, D), "bert/embeddings/position_embeddings": (L, D)}
NAMES |= {"bert/embeddings/token_type_embeddings": (2, D), "global_step": ()}
DENSE = {f"attention/self/{name}": (D, D) for name in ("query", "key", "value")}
DENSE |= {"attention/output/dense": (D, D), "intermediate/dense": (D, F), "output/dense": (F, D)}
DENSE = {f"bert/encoder/layer_{i}/{name}": shape for i in range(2) for name, shape in DENSE.items()}
DENSE |= {"bert/pooler/dense": (D, D), "cls/predictions/transform/dense": (D, D)}
for name, shape in DENSE.items():
    NAMES |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
NORMS = [f"bert/encoder/layer_{i}/{name}" for i in range(2) for name in ("attention/output", "output")]
for name in ("bert/embeddings", *NORMS, "cls/predictions/transform"):
    NAMES |= {f"{name}/LayerNorm/gamma": (D,), f"{name}/LayerNorm/beta": (D,)}
NAMES |= {"cls/predictions/output_bias": (V,), "cls/seq_relationship/output_weights": (2, D)}
NAMES |= {"cls/seq_relationship/output_bias": (2,)}
NAMES |= {f"{name}/adam_{m}": NAMES[name] for name in list(NAMES)[-3:] for m in "mv"}


def value(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.5, shape).astype(np.float32)


tf.disable_eager_execution()
with tf.Session() as session:
    made = [
        tf.Variable(np.int64(7) if name == "global_step" else value(name, shape), name=name)
        for name, shape in NAMES.items()
    ]
    session.run([variable.initializer for variable in made])
    tf.train.Saver(made).save(session, str(HERE / "bert_model.ckpt"), write_meta_graph=False, write_state=False)
sizes = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": F}
rest = {"max_position_embeddings": L, "type_vocab_size": 2, "hidden_act": "gelu", "initializer_range": 0.02}
rest |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
(HERE / "bert_config.json").write_text(json.dumps(sizes | rest, indent=2) + "\n")
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", *"abcdefg"]
(HERE / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
