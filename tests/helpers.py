"""A tiny model, batches with real padding, and what a training run is made of."""

import warnings
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.contracts import Compute
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.log import ENDED, read_metrics
from bertjax.train.mesh import MeshConfig, make_mesh, path_of, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.padding import held, padded
from bertjax.train.state import init_state, planned_state
from bertjax.train.step import make_train_step

F32, BF16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)
TINY = bert.Config(
    vocab_size=128, width=32, layers=2, heads=2, mlp_width=64, max_length=32, dropout=0.0, attention_dropout=0.0
)
DROPOUT = replace(TINY, dropout=0.1, attention_dropout=0.1)
ONE = MeshConfig(data=1)
# Leaves the parameters alone and keeps the last gradient as its state.
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradients, state, params: (jax.tree.map(jnp.zeros_like, gradients), gradients),
)


def make_batch(seed=0, *, rows=16, length=16, slots=4, vocab=128):
    """Rows of different lengths, one unused slot here and there; every array as the loader would make it."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(slots + 2, length + 1, rows)
    lengths[0] = length
    real = np.arange(length)[None] < lengths[:, None]
    used = rng.random((rows, slots)) < 0.8
    used[:, 0] = True
    positions = np.stack([np.sort(rng.permutation(np.arange(1, n - 1))[:slots]) for n in lengths])
    batch = {
        "tokens": rng.integers(5, vocab, (rows, length)) * real,
        "types": (np.arange(length)[None] >= lengths[:, None] // 2) & real,
        "sequence": real,
        "positions": np.arange(length)[None] * real,
        "first_tokens": np.zeros((rows, 1)),
        "masked_positions": positions * used,
        "masked_targets": rng.integers(5, vocab, (rows, slots)) * used,
        "next_labels": rng.integers(0, 2, (rows, 1)),
    }
    weights = {"masked_weights": used, "next_weights": np.ones((rows, 1))}
    return {n: x.astype(np.int32) for n, x in batch.items()} | {n: x.astype(np.float32) for n, x in weights.items()}


@dataclass(frozen=True)
class Parts:
    """Everything of a training run but its batches."""

    mesh: jax.sharding.Mesh
    objective: Any
    step: Any
    initial: Any  # the first state, on the host

    @property
    def state(self):
        """The first state on the mesh, anew each time: steps give their state up."""
        where = jax.tree.map(lambda x: x.sharding, held(self.initial, self.mesh))
        return jax.device_put(jax.tree.map(np.copy, self.initial), where)

    def train(self, batches, state=None):
        """The state after `batches`, and the metrics of each step."""
        state, metrics = state or self.state, []
        for batch in batches:
            state, new = self.step(state, put_batch(batch, self.mesh))
            metrics.append(jax.device_get(new))
        return state, metrics


def parts(model=TINY, mesh=ONE, *, objective=None, update=None, micro_batches=1, seed=0):
    """A fresh run of a tiny model; `update` is an optax transformation whose state begins with zeros."""
    mesh, objective = make_mesh(mesh), objective or mlm.Config()
    first = _first_state(replace(model, dropout=0.0, attention_dropout=0.0), objective, seed)
    objective = objective.build(model).using(Compute(mesh=mesh))
    update = update or Optimizer(peak_lr=1e-3, warmup=2).build(20)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), planned_state(objective, update, mesh))
    initial = replace(zeros, params=padded(first.params, zeros.params), key=first.key)
    return Parts(mesh, objective, make_train_step(objective, update, mesh, micro_batches=micro_batches), initial)


@cache
def _first_state(model, objective, seed):
    """Made on one device for all meshes (a test of its own says that they agree), as its compilation is slow."""
    state = init_state(objective.build(model), optax.identity(), seed=seed, mesh=make_mesh(ONE))
    return jax.tree.map(np.array, state)


def abstract_state(state):
    """Shapes, types and shardings of a state: what a checkpoint is restored into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def flipped(state, name, device, bit):
    """A state in which one bit of the copy that a device has of an array is another."""

    def changed(path, leaf):
        if path_of(path) != name:
            return leaf
        shards = leaf.addressable_shards
        copies = [np.array(shard.data) for shard in shards]
        words = copies[[shard.device for shard in shards].index(device)].reshape(-1).view(np.uint32)
        words[bit // 32 % len(words)] ^= np.uint32(1 << bit % 32)
        there = [jax.device_put(copy, shard.device) for copy, shard in zip(copies, shards, strict=True)]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, there)

    return jax.tree_util.tree_map_with_path(changed, state)


BY_THE_CLOCK = ("seconds", "tokens_per_second", "gflops_per_second", "data_wait", "spent")


def logged(run):
    """The lines of a run's metrics.jsonl, but for what a clock says, and when it was stopped."""
    lines = [line for line in read_metrics(run) if line["split"] != ENDED]
    return [{name: value for name, value in line.items() if name not in BY_THE_CLOCK} for line in lines]


def losses(metrics, terms=("mlm_loss", "nsp_loss")):
    """The loss of each step."""
    return np.array([sum(step[name][0] / step[name][1] for name in terms) for step in metrics], np.float64)


def random_params(tree, seed=0, std=0.2):
    """Parameters of a tree's shapes that hide nothing: no zero biases, no unit scales."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, std, x.shape), jnp.float32), tree)


def init(module, *arrays, **options):
    """Shapes of a module's variables filled by `random_params`; nothing is compiled."""
    return random_params(jax.eval_shape(partial(module.init, **options), jax.random.key(0), *arrays))


def apply(module, variables, *arrays, **options):
    """module.apply, compiled; arrays may be numpy's."""
    return jax.jit(partial(module.apply, **options))(variables, *arrays)


def prepare_tfds(folder, splits):
    """A data set of our own, tiny_texts/plain:1.2.0, prepared in a folder as its user would, without TensorFlow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        class TinyTexts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.2.0")
            BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="plain", version="1.2.0"),)

            def _info(self):
                features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["a", "b"])}
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(texts) for split, texts in splits.items()}

            def _generate_examples(self, texts):
                for i, text in enumerate(texts):
                    yield i, {"text": text, "label": i % 2}

        TinyTexts(data_dir=str(folder), file_format="array_record").download_and_prepare()
