"""A plan for people to read."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bertjax.memory import verdict
from bertjax.train.log import TEMPORARIES, answers, memory_table
from bertjax.train.mesh import idle

MIB = 2**20
WORTH_A_WORD = 0.01  # of the state: the types' table of two rows is not
RECOMPUTED = 1.05  # times the formula; what is not a matrix product is less than that in models of some size
REPEATED = 1.1  # likewise; where rows are cut, what each device does for itself is more
FULL = 0.8  # of a chip's memory: with less there is no need to compute anything again


def show(report: dict[str, Any]) -> None:
    """Prints what `verb.plan` found."""
    sizes = " x ".join(f"{name} {size}" for name, size in report["mesh"].items() if size > 1) or "one device"
    answers.print(f"{report['devices']} of {report['chip']['name']} ({report['topology']}), mesh {sizes}")
    if share := report["chip"].get("memory_share"):
        answers.print(f"of a GPU's memory JAX takes {share:.0%}; XLA_PYTHON_CLIENT_MEM_FRACTION changes that")
    if report["idle_devices"]:
        answers.print(idle([*report["mesh"].values()], report["devices"] + report["idle_devices"]))
    left, sizes = report["undivided"], report["phases"][0]["bytes_per_chip"]
    if left["bytes_per_chip"] > WORTH_A_WORD * (sizes["parameters"] + sizes["optimizer"]):
        answers.print(
            f"{left['arrays']} arrays of parameters and optimizer, {left['bytes_per_chip'] / MIB:,.1f} MiB of each "
            f"device, are not cut as the mesh says: it does not divide them ({left['such_as']})"
        )
    for phase in report["phases"]:
        _memory(phase)
        _collectives(phase["collectives_per_step"])
        _work(phase, report["mesh"], report["effort"])


def _memory(phase: dict[str, Any]) -> None:
    title = f"{phase['steps']:,} steps of {phase['batch_size']:,} x {phase['length']:,}"
    sizes = phase["bytes_per_chip"]
    state = {name: sizes[name] for name in ("parameters", "optimizer", "batch")}
    taken = {**state, TEMPORARIES: sizes["temporaries"], "the program itself": sizes["program"]}
    answers.print(memory_table(title, {name: size for name, size in taken.items() if size is not None}))
    mend = phase.get("would_mend_it", ())
    also = ". Each of these should mend it (plan it to be sure):" if mend else ""
    answers.print(verdict(phase["fits"], sizes["needed"], sizes["available"]) + also)
    for cure in mend:
        answers.print(f"  {cure}")


def _collectives(found: list[dict[str, Any]] | None) -> None:
    if not found:
        return
    table = Table("collectives of a step", "across", "devices", "times", "MiB", "MiB each device sends")
    for one in found:
        sizes = (f"{one[name] / MIB:,.2f}" for name in ("bytes", "sent"))
        table.add_row(one["kind"], " x ".join(one["axes"]), str(one["devices"]), f"{one['times']:,}", *sizes)
    answers.print(table)


def _work(phase: dict[str, Any], mesh: Mapping[str, int], effort: str) -> None:
    table = Table("work of a step", "")
    table.add_row("tokens", f"{phase['tokens_per_step']:,}")
    flops, memory = phase["flops_per_step"], phase["bytes_per_chip"]
    used = memory["needed"] / (memory["available"] or math.inf)
    shared = max(mesh["seq"], mesh["tensor"]) > 1
    by_compiler = counted(flops["ratio"], phase["remat"], used, shared=shared, kernels=flops["kernels"])
    table.add_row("FLOP by formula", f"{flops['formula']:.4g}{by_compiler}")
    if estimate := phase.get("estimate"):
        each = ", ".join(f"{name} {value:.2f} ms" for name, value in estimate["milliseconds"].items() if value)
        without = "".join(f"; {name} not counted: its speed is not known" for name in estimate["not_counted"])
        less = " (--model.dtype bfloat16 takes less)" if estimate["dtype"] == "float32" else ""
        quick = "; without --quick memory may take less" if effort == "quick" else ""
        table.add_row("estimate: each at its peak", f"{each}{without}; in {estimate['dtype']}{less}{quick}")
        took, rate = estimate["step_milliseconds"], estimate["tokens_per_second"]
        table.add_row(
            f"estimate: {estimate['binds']} binds",
            f"{took:.2f} ms a step, {rate:,.0f} tokens/s, MFU {estimate['mfu']:.0%}, were all of it at once",
        )
    table.add_row("compiling", "known from before" if phase["from_cache"] else f"{phase['compile_seconds']:,.1f} s")
    answers.print(table)


def counted(ratio: float | None, remat: str, used: float, *, shared: bool, kernels: int) -> str:
    """How many FLOPs the compiler counts for each of the formula's, and what follows.

    `used` is of a chip's memory, `shared` whether a mesh cuts rows (`seq`, `tensor`), `kernels` how many calls there
    are of such as it does not look into.
    """
    if not ratio:
        return ""
    reasons = [f"nothing of {kernels} calls of kernels"] if kernels else []
    if ratio < 1.0 and not kernels:
        # With `fsdp` XLA for TPUs computes products in loops, and sends a part of a kernel in each round.
        reasons.append("of a loop one round")
    elif ratio > RECOMPUTED and remat == "none":
        again = ["computes some of it again, to save memory"] if used > FULL else []
        twice = ["does some of it on several devices"] if shared and ratio > REPEATED else []
        reasons += ["it " + ", or ".join(again + twice)] if again + twice else []
    return f" (the compiler counts {ratio:.2f} times as many{''.join(f': {reason}' for reason in reasons)})"
