"""The ways to attend: einsum anywhere, cuDNN's fused kernel on GPUs, the splash kernel on TPUs.

All take query, key, value f[B,L,N,H] and sequence i32[B,L], and give f[B,L,N,H]: a token sees those of its own packed
sequence, with a window (left, right) only so many before and after it. What padding gets is finite and means nothing.
With `read` i32[B,K] the queries are f[B,K,N,H], those of these places, and so is what they get.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from bertjax.contracts import Compute, Window
from bertjax.errors import ConfigError
from bertjax.nn.dropout import dropped
from bertjax.nn.places import of_queries, platform_of, same_sequence, spread_over, visible_to

LONG = 512  # tokens from which the scores f32[N,L,L] of a row move more bytes than all else in a layer
WIDEST = 1024  # bytes of what a head has of a token, above which the splash kernel's blocks do not fit in VMEM
BLOCK = 128  # the splash kernel's rows are cut into blocks of so many tokens, or of more

Heads = Float[Array, "B L N H"]
Queries = Float[Array, "B K N H"]
Bits = UInt32[Array, " S"]


def probabilities(query: Queries, key: Heads, visible: Bool[Array, "B 1 K L"]) -> Float[Array, "B N K L"]:
    """Attention probabilities, computed in float32; a row that sees nothing (padding) is uniform, never NaN."""
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(visible, scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1).astype(query.dtype)


def einsum(
    query: Queries,
    key: Heads,
    value: Heads,
    sequence: Int[Array, "B L"],
    *,
    read: Int[Array, "B K"] | None = None,
    window: Window = None,
    rate: float = 0.0,
    seeds: Bits | None = None,
    again: bool = False,
) -> Queries:
    """Plain products with the probabilities in memory, of which `seeds` drop a share `rate` (nn/dropout.py).

    The backward pass is kept the probabilities, or with `again` computes them a second time. The caller must give
    padded queries no gradient: they see nothing, and nothing here guards against it.

    On a CPU it is 5% of a layer of BERT-base (32 x 128, without gradients), where products with weights bind: another
    layout, and scaling the query before or the sum after the product in place of the scores, took within 2% of it.
    """
    return _attend((query, key, value), same_sequence(sequence, window, read), seeds, rate, again)


Arrays = tuple[jax.Array, jax.Array, jax.Array]
Kept = tuple[Arrays, jax.Array, jax.Array | None, jax.Array | None, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(heads: Arrays, visible: jax.Array, seeds: jax.Array | None, rate: float, again: bool) -> jax.Array:
    """The products and their gradient: that of the softmax by what came out (Dao et al. 2022, appendix B.2, eq. 4).

    Left to itself JAX keeps the scores as float32 besides, and sums probabilities times their gradients over the keys,
    which XLA does twice. By its estimate for v5e a step of BERT-base (four layers, 512 x 128 a chip, bfloat16) takes 5%
    fewer cycles so and moves 8% fewer bytes.
    """
    return _forward(heads, visible, seeds, rate, again)[0]


def _forward(
    heads: Arrays, visible: jax.Array, seeds: jax.Array | None, rate: float, again: bool
) -> tuple[jax.Array, Kept]:
    query, key, value = heads
    weights = probabilities(query, key, visible)
    out = jnp.einsum("bnqk,bknh->bqnh", dropped(weights, seeds, rate), value)
    return out, (heads, visible, seeds, None if again else weights, out)


def _backward(rate: float, again: bool, kept: Kept, gradient: jax.Array) -> tuple[Arrays, None, None]:
    (query, key, value), visible, seeds, weights, out = kept
    if weights is None:  # behind a barrier, else XLA sees that it has them and keeps them
        query, key, gradient = jax.lax.optimization_barrier((query, key, gradient))
        weights = probabilities(query, key, visible)
    of_value = jnp.einsum("bnqk,bqnh->bknh", dropped(weights, seeds, rate), gradient)
    of_weights = jnp.einsum("bqnh,bknh->bnqk", gradient, value, preferred_element_type=jnp.float32)
    mean = jnp.swapaxes(jnp.sum(gradient.astype(jnp.float32) * out, axis=-1), 1, 2)[..., None]
    of_scores = weights.astype(jnp.float32) * (dropped(of_weights, seeds, rate) - mean) * query.shape[-1] ** -0.5
    of_scores = of_scores.astype(query.dtype)
    of_query = jnp.einsum("bnqk,bknh->bqnh", of_scores, key)
    of_key = jnp.einsum("bnqk,bqnh->bknh", of_scores, query)
    return (of_query, of_key, of_value), None, None


_attend.defvjp(_forward, _backward)


def cudnn(
    query: Queries,
    key: Heads,
    value: Heads,
    sequence: Int[Array, "B L"],
    *,
    mesh: Mesh | None,
    read: Int[Array, "B K"] | None = None,
    window: Window = None,
) -> Queries:
    """cuDNN's flash attention, which takes the packed sequences as a mask bool[B,1,K,L]."""

    def here(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, places: jax.Array, kv: jax.Array) -> jax.Array:
        mask = visible_to(ids, places, kv, window)
        with _no_gradient_of_the_mask():
            return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")

    return _on_each_device(here, 2, mesh, (query, key, value), sequence, read)


@contextmanager
def _no_gradient_of_the_mask() -> Iterator[None]:
    """In jax 0.10 cuDNN computes one in every layer, bf16[B,1,K,L], that nobody reads; 0.11 asks for none."""
    from jax._src.cudnn import fused_attention_stablehlo as kernels

    asks = getattr(kernels, "should_export_dbias", None)
    if asks is None:
        yield
        return
    kernels.should_export_dbias = lambda *_: False
    try:
        yield
    finally:
        kernels.should_export_dbias = asks


def splash(
    query: Queries,
    key: Heads,
    value: Heads,
    sequence: Int[Array, "B L"],
    *,
    mesh: Mesh | None,
    read: Int[Array, "B K"] | None = None,
    window: Window = None,
) -> Queries:
    """The Pallas kernel for TPUs, which skips what a window leaves out; on a CPU it is interpreted, for tests.

    It has a window where all places ask, not where some are `read`.
    """

    def here(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, _: jax.Array, kv: jax.Array) -> jax.Array:
        return _splash(q, k, v, ids, kv, window=window, interpret=platform_of(mesh) == "cpu")

    return _on_each_device(here, BLOCK, mesh, (query, key, value), sequence, read)


def _on_each_device(
    kernel: Callable[..., jax.Array],
    block: int,
    mesh: Mesh | None,
    heads: Arrays,
    sequence: jax.Array,
    read: jax.Array | None,
) -> jax.Array:
    """A kernel, which the compiler cannot cut: each device runs it on its own rows, heads and queries.

    It takes query, key, value, sequence and place of each query, and sequence of each key. Devices of `seq` share the
    queries of a row, or, where some are `read`, first the rows (`places.spread`). Queries are filled up to blocks for
    each device; what is added is padding.
    """
    size, count = heads[0].shape[:2]
    rows, places = spread_over(mesh, size, count, some=read is not None)
    added = ((0, 0), (0, -count % (block * (mesh.shape.get(places, 1) if mesh else 1))))
    query = jnp.pad(heads[0], (*added, (0, 0), (0, 0)))
    asking = (jnp.pad(x, added) for x in of_queries(sequence, read))
    if mesh is None or jax.sharding.get_abstract_mesh().manual_axes:  # written for one device of many already
        return kernel(query, *heads[1:], *asking, sequence)[:, :count]
    cut_heads = "tensor" if query.shape[2] % mesh.shape.get("tensor", 1) == 0 else None
    q, kv = P(rows, places, cut_heads), P(rows, None, cut_heads)
    ids, all_ids = P(rows, places), P(rows, None)
    local = jax.shard_map(kernel, mesh=mesh, in_specs=(q, kv, kv, ids, ids, all_ids), out_specs=q, check_vma=False)
    return local(query, *heads[1:], *asking, sequence)[:, :count]


def _splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    q_ids: jax.Array,
    kv_ids: jax.Array,
    *,
    window: Window,
    interpret: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = query.shape[1], key.shape[1]
    mask: Any = masks.FullMask(shape) if window is None else masks.LocalMask(shape, window, offset=0)
    block, across = (max(n for n in (128, 256, 512) if size % n == 0) for size in shape)
    sizes = kernels.BlockSizes(block, across, across, block, across, across, block, across)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * query.shape[2]),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    by_head = [jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value)]
    attended = jax.vmap(lambda q, k, v, *ids: kernel(q, k, v, segment_ids=kernels.SegmentIds(*ids)))
    return jnp.swapaxes(attended(*by_head, q_ids, kv_ids), 1, 2).astype(value.dtype)


def choose(
    compute: Compute,
    *,
    length: int,
    head_width: int,
    dtype: jnp.dtype,
    dropped: bool,
    queries: int | None = None,
    window: Window = None,
) -> str:
    """einsum, cudnn or splash: what was asked for, or what suits the machine; ConfigError where that cannot be.

    `dropped` says whether attention probabilities are to be dropped, which the fused kernels cannot do; `queries`, how
    many of the `length` places ask, where not all do. Scores of a few are few, and no kernel is taken for them.
    """
    asking = length if queries is None else queries
    some = asking < length
    obstacles = {
        "cudnn": _without_cudnn(compute, head_width, dtype, dropped, length),
        "splash": _without_splash(compute, head_width, dtype, dropped, length, window, some),
    }
    if compute.attention in obstacles:
        obstacle = obstacles[compute.attention]
        if obstacle:
            raise ConfigError(f"attention={compute.attention}: {obstacle}; or leave --attention to auto")
        return compute.attention
    platform = platform_of(compute.mesh)
    suits = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "einsum")
    few = some and asking * length < LONG**2
    if compute.attention == "einsum" or suits == "einsum" or few or (suits == "splash" and length < LONG):
        return "einsum"
    if obstacles[suits]:
        _say_once(f"attention: einsum, not {suits}: {obstacles[suits]}")
        return "einsum"
    return suits


def _without_cudnn(compute: Compute, head_width: int, dtype: jnp.dtype, dropped: bool, length: int) -> str:
    device = compute.mesh.devices.flat[0] if compute.mesh else jax.devices()[0]
    capability = str(getattr(device, "compute_capability", "0"))
    if platform_of(compute.mesh) != "gpu" or not capability.replace(".", "").isdigit() or float(capability) < 8:
        return f"needs an NVIDIA GPU from Ampere on, here is {device.device_kind}"
    if dtype != jnp.bfloat16:
        return f"needs --model.dtype bfloat16, is {dtype}"
    if head_width % 8 or head_width > 128:
        return f"needs heads of a multiple of 8 units, at most 128; they have {head_width}"
    if length % 2:
        return f"needs an even length, is {length}"
    return _DROPPED if dropped else ""


def _without_splash(
    compute: Compute, head_width: int, dtype: jnp.dtype, dropped: bool, length: int, window: Window, some: bool
) -> str:
    platform = platform_of(compute.mesh)
    if platform not in ("tpu", "cpu") or compute.mesh is None:
        return "needs TPUs"
    obstacle = _DROPPED if dropped else ""
    seq = compute.mesh.shape.get("seq", 1)
    if window is not None and (seq > 1 or some):
        obstacle = "has no windows on a mesh with seq above 1, nor for some of the places"
    if head_width * dtype.itemsize > WIDEST:
        obstacle = f"needs heads of at most {WIDEST // dtype.itemsize} units in {dtype}; they have {head_width}"
    if length % (BLOCK * seq):
        obstacle = f"needs a length that is a multiple of {BLOCK * seq}, is {length}"
    on_cpu = obstacle and platform == "cpu"  # where the kernel is only to be tried
    return f"is for TPUs, here is a CPU; {obstacle}" if on_cpu else obstacle


_DROPPED = "cannot drop attention probabilities: set --model.attention-dropout 0 (when the encoder is pretrained)"


@cache
def _say_once(text: str) -> None:
    logging.getLogger("bertjax").warning(text)
