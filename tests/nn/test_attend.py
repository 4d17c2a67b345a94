"""The ways to attend give the same, and each is taken where it can be."""

import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32
from jax.sharding import AxisType, Mesh

from bertjax.contracts import Compute
from bertjax.errors import ConfigError
from bertjax.nn import attend
from bertjax.nn.places import same_sequence

AXES = ("data", "fsdp", "seq", "tensor")
WINDOWS = [None, (70, 70), (200, 3)]


def mesh(*sizes):
    devices = np.asarray(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)


def arrays(rows=4, length=256, heads=2, width=64):
    """query, key, value, and rows of one, two, three sequences with padding behind."""
    rng = np.random.default_rng(0)
    made = [jnp.asarray(rng.normal(size=(rows, length, heads, width)), jnp.float32) for _ in range(3)]
    sequence = np.ones((rows, length), np.int32)
    for row, ends in enumerate([(256,), (100, 256), (90, 150, 230), (130, 250)][:rows]):
        sequence[row] = 1 + np.searchsorted(ends, np.arange(length), side="right")
        sequence[row, ends[-1] :] = 0
    return made, jnp.asarray(sequence)


def plain(query, key, value, sequence, window):
    """float64, a loop over rows."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    ahead = np.arange(query.shape[1])[None] - np.arange(query.shape[1])[:, None]
    for row, ids in enumerate(np.asarray(sequence)):
        seen = (ids[:, None] == ids[None]) & (ids > 0)[None]
        if window:
            seen &= (ahead >= -window[0]) & (ahead <= window[1])
        scores = np.einsum("qnh,knh->nqk", query[row], key[row]) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
        out[row] = np.einsum("nqk,knh->qnh", weights, value[row])
    return out


@pytest.fixture
def stand_in_for_cudnn(monkeypatch):
    """The kernel itself needs a GPU (bench/gpu.py); XLA's implementation of the same call does its work."""
    real = jax.nn.dot_product_attention

    def call(*heads, implementation, **options):
        assert implementation == "cudnn"
        return real(*heads, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", call)


def with_gradients(path, heads, sequence, window):
    """What a path gives of the real tokens, and the gradients of a sum over them that weighs each differently."""
    real = (sequence > 0)[:, :, None, None]
    weights = np.random.default_rng(1).normal(size=(*sequence.shape, *heads[0].shape[2:])).astype(np.float32)

    def total(*heads):
        out = jnp.where(real, path(*heads, sequence, window=window), 0)
        return jnp.sum(out * weights), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*heads)
    return (out, *gradients)


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("window", WINDOWS)
def test_einsum_against_plain_numpy(window):
    heads, sequence = arrays()
    real = np.asarray(sequence > 0)
    np.testing.assert_allclose(
        np.asarray(attend.einsum(*heads, sequence, window=window))[real],
        plain(*heads, sequence, window)[real],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_so_many_before_and_after(window):
    sequence = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]])
    seen = np.asarray(same_sequence(sequence, (1, 2)))[0, 0]
    expected = [[0, 1, 2], [0, 1, 2, 3], [1, 2, 3], [2, 3], [4, 5, 6], [4, 5, 6], [5, 6], []]
    assert [np.flatnonzero(row).tolist() for row in seen] == expected


CUT = (2, 1, 2, 1)
TOO_MANY = (1, 1, 8, 1)  # devices for the rows there are


@pytest.mark.parametrize(
    ("way", "where", "window", "places"),
    [
        *(("einsum", None, window, 7) for window in WINDOWS),
        *(("cudnn", where, window, 7) for where in (None, CUT, TOO_MANY) for window in WINDOWS),
        ("cudnn", TOO_MANY, None, 9),  # enough of them for all devices
        *(("splash", where, None, 7) for where in (None, CUT)),
    ],
)
def test_fewer_queries_get_what_they_get_among_all(way, where, window, places, stand_in_for_cudnn):
    heads, sequence = arrays()
    read = jnp.asarray(np.random.default_rng(2).integers(0, sequence.shape[1], (4, places)))
    how = {} if way == "einsum" else {"mesh": where and mesh(*where)}

    def read_places(x):
        return jnp.take_along_axis(x, read[:, :, None, None], axis=1)

    def fewer(query, key, value, _, window):
        return getattr(attend, way)(read_places(query), key, value, sequence, read=read, window=window, **how)

    def among_all(query, key, value, _, window):
        return read_places(attend.einsum(query, key, value, sequence, window=window))

    asking = jnp.take_along_axis(sequence, read, axis=1)
    assert_same(*(with_gradients(path, heads, asking, window) for path in (fewer, among_all)))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 1, 2)])
def test_splash_gives_what_einsum_gives_and_the_same_gradients(window, sizes):
    if window and sizes[0] > 1:
        pytest.skip("once on a mesh is enough: it is interpreted, which takes its time")
    heads, sequence = arrays()
    expected = with_gradients(attend.einsum, heads, sequence, window)
    got = with_gradients(partial(attend.splash, mesh=mesh(*sizes)), heads, sequence, window)
    assert_same(got, expected)


def test_splash_where_a_mesh_cuts_rows():
    heads, sequence = arrays(rows=2)
    cut = partial(attend.splash, mesh=mesh(1, 1, 2, 1))
    assert_same(*(with_gradients(path, heads, sequence, None) for path in (cut, attend.einsum)))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("where", [None, (2, 1, 2, 2)])
def test_cudnn_is_given_the_mask_and_no_other_scale(window, where, stand_in_for_cudnn):
    heads, sequence = arrays()
    cudnn = partial(attend.cudnn, mesh=where and mesh(*where))
    expected = with_gradients(attend.einsum, heads, sequence, window)
    assert_same(with_gradients(cudnn, heads, sequence, window), expected)


class Elsewhere(Mesh):
    """A mesh of devices that are not here."""

    def __new__(cls, device, shape):
        return object.__new__(cls)

    def __init__(self, device, shape):
        self.__dict__.update(devices=np.array([device], object), sizes=shape)

    shape = property(lambda self: self.sizes)
    __repr__ = object.__repr__


def machine(platform, capability=None, **shape):
    return Elsewhere(SimpleNamespace(platform=platform, device_kind=platform, compute_capability=capability), shape)


H100, V100, TPU, CPU = machine("gpu", "9.0"), machine("gpu", "7.0"), machine("tpu"), machine("cpu")
TRAIN = {"length": 512, "head_width": 64, "dtype": BF16, "dropped": False}


def test_cudnn_computes_no_gradient_of_the_mask(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as kernels

    monkeypatch.setattr(kernels, "check_cudnn_version", lambda: 91000)  # as if there were a GPU
    monkeypatch.setattr(kernels, "check_compute_capability", lambda *_: True)
    query, sequence = jnp.ones((2, 128, 4, 64), jnp.bfloat16), jnp.ones((2, 128), jnp.int32)
    gradient = jax.grad(lambda q: attend.cudnn(q, q, q, sequence, mesh=None).astype(jnp.float32).sum())
    text = jax.jit(gradient).trace(query).lower(lowering_platforms=("cuda",)).as_text()
    (backward,) = [line for line in text.splitlines() if "fmhaScaleBiasSoftmaxBackward" in line]
    given = backward.rpartition("-> (")[2]
    assert given.count("tensor<2x4x128x64xbf16>") == 3 and "2x1x128x128" not in given, given


@pytest.mark.parametrize(
    ("where", "change", "way"),
    [
        (H100, {}, "cudnn"),
        (machine("cuda", "8.0"), {"length": 128}, "cudnn"),
        (H100, {"window": (64, 64)}, "cudnn"),
        (H100, {"dtype": F32}, "einsum"),
        (H100, {"dropped": True}, "einsum"),
        (H100, {"head_width": 20}, "einsum"),
        (H100, {"length": 127}, "einsum"),
        (V100, {}, "einsum"),
        (TPU, {}, "splash"),
        (TPU, {"window": (64, 64)}, "splash"),
        (TPU, {"length": 384}, "einsum"),
        (TPU, {"head_width": 512}, "splash"),
        (TPU, {"head_width": 512, "dtype": F32}, "einsum"),
        (TPU, {"length": 1000}, "einsum"),
        (TPU, {"dropped": True}, "einsum"),
        (machine("tpu", seq=8), {}, "einsum"),
        (machine("tpu", seq=4), {}, "splash"),
        (machine("tpu", seq=4), {"window": (64, 64)}, "einsum"),
        (CPU, {}, "einsum"),
        (None, {}, "einsum"),
        (H100, {"queries": 512}, "cudnn"),
        (H100, {"queries": 80}, "einsum"),
        (H100, {"length": 4096, "queries": 615}, "cudnn"),
        (TPU, {"length": 4096, "queries": 615}, "splash"),
        (TPU, {"length": 4096, "queries": 1}, "einsum"),
        (TPU, {"length": 4096, "queries": 615, "window": (64, 64)}, "einsum"),
    ],
)
def test_what_suits_the_machine(where, change, way):
    assert attend.choose(Compute(mesh=where), **{**TRAIN, **change}) == way
    assert attend.choose(Compute(attention="einsum", mesh=where), **{**TRAIN, **change}) == "einsum"


@pytest.mark.parametrize(
    ("kind", "where", "change", "message"),
    [
        ("cudnn", CPU, {}, "needs an NVIDIA GPU from Ampere on, here is cpu"),
        ("cudnn", V100, {}, "from Ampere on"),
        ("cudnn", H100, {"dtype": F32}, "needs --model.dtype bfloat16, is float32"),
        ("cudnn", H100, {"dropped": True}, "set --model.attention-dropout 0"),
        ("splash", H100, {}, "needs TPUs"),
        ("splash", TPU, {"dropped": True}, "set --model.attention-dropout 0"),
        ("splash", TPU, {"length": 500}, "a multiple of 128, is 500"),
        ("splash", TPU, {"head_width": 576}, "at most 512 units in bfloat16; they have 576"),
        ("splash", None, {}, "needs TPUs"),
        ("splash", CPU, {"length": 500}, "is for TPUs, here is a CPU; needs a length that is a multiple of 128"),
        ("splash", CPU, {"dropped": True}, "is for TPUs, here is a CPU; .* --model.attention-dropout 0"),
    ],
)
def test_what_cannot_be_done_is_told(kind, where, change, message):
    with pytest.raises(ConfigError, match=f"attention={kind}: .*{message}"):
        attend.choose(Compute(attention=kind, mesh=where), **{**TRAIN, **change})


def test_why_a_kernel_is_not_taken_is_said_once(caplog):
    attend._say_once.cache_clear()
    for _ in range(3):
        attend.choose(Compute(mesh=H100), **{**TRAIN, "dropped": True})
    (said,) = [record.message for record in caplog.records]
    assert said == (
        "attention: einsum, not cudnn: cannot drop attention probabilities: set --model.attention-dropout 0 "
        "(when the encoder is pretrained)"
    )


AHEAD_OF_TIME = """
import jax, numpy as np, jax.numpy as jnp
from functools import partial
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from bertjax.nn import attend
devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
for sizes, window, few in (
    ((2, 2, 1, 2), None, 0), ((4, 1, 2, 1), None, 0), ((8, 1, 1, 1), (64, 64), 0), ((4, 1, 2, 1), None, 150)
):
    mesh = Mesh(np.array(devices).reshape(sizes), ("data", "fsdp", "seq", "tensor"), axis_types=(AxisType.Auto,) * 4)
    rows = NamedSharding(mesh, P(("data", "fsdp"), "seq"))
    heads = [jax.ShapeDtypeStruct((8, 1024, 4, 64), jnp.bfloat16, sharding=rows)] * 3
    ids = jax.ShapeDtypeStruct((8, 1024), jnp.int32, sharding=rows)
    def total(q, k, v, ids):
        read = jnp.tile(jnp.arange(few), (8, 1)) if few else None
        q = q[:, :few] if few else q
        return attend.splash(q, k, v, ids, mesh=mesh, window=window, read=read).astype(jnp.float32).sum()
    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*heads, ids)
    print(traced.lower(lowering_platforms=("tpu",)).compile().as_text().count("tpu_custom_call"))
"""


@pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed (bertjax[tpu])")
def test_splash_compiles_for_tpus():
    environment = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    done = subprocess.run(
        [sys.executable, "-c", AHEAD_OF_TIME], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Forward, and backward for the queries and for keys and values: a kernel each.
    assert [int(count) >= 3 for count in done.stdout.split()] == [True] * 4
