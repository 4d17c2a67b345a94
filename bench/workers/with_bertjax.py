"""bertjax: the step that `bertjax pretrain` runs, or its encoder."""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bertjax.heap import collect_seldom, keep_freed

keep_freed()  # as the command line does
collect_seldom()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from serve import Spec, serve  # noqa: E402


def make(spec: Spec):  # noqa: ANN201 (a function without arguments)
    """One training step, or one pass of the encoder."""
    from training import Training

    from bertjax.compiled import inference
    from bertjax.models.bert import Config
    from bertjax.objectives import mlm
    from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
    from bertjax.train.state import init_params

    batch, mesh = dict(np.load(spec["packed"] or spec["batch"])), make_mesh(MeshConfig(data=1))
    objective = mlm.Config().build(replace(Config(), **spec["model"]))
    placed = put_batch(batch, mesh)
    if spec["what"] == "inference":
        params = jax.device_put(init_params(objective, seed=0))
        flops = spec.get("flops", float("inf"))  # by itself, as for a file of many texts
        encode = inference(lambda p, b: objective.apply({"params": p}, b, method="encode")[0].hidden, flops)
        return lambda: jax.block_until_ready(encode(params, placed))
    return partial(Training(objective, mesh).step, placed)


if __name__ == "__main__":
    serve(make)
