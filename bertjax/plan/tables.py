"""A plan for people to read."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bertjax.memory import verdict
from bertjax.train.log import TEMPORARIES, answers, memory_table

MIB = 2**20
WORTH_A_WORD = 0.01  # of the state: the types' table of two rows is not
RECOMPUTED = 1.05  # times the formula; what is not a matrix product is less than that in models of some size
FULL = 0.8  # of a chip's memory: with less there is no need to compute anything again


def show(report: dict[str, Any]) -> None:
    """Prints what `verb.plan` found."""
    sizes = " x ".join(f"{name} {size}" for name, size in report["mesh"].items() if size > 1) or "one device"
    answers.print(f"{report['devices']} of {report['chip']['name']} ({report['topology']}), mesh {sizes}")
    if share := report["chip"].get("memory_share"):
        answers.print(f"of a GPU's memory JAX takes {share:.0%}; XLA_PYTHON_CLIENT_MEM_FRACTION changes that")
    if report["idle_devices"]:
        answers.print(idle(report["mesh"], report["devices"], report["idle_devices"]))
    left, sizes = report["undivided"], report["phases"][0]["bytes_per_chip"]
    if left["bytes_per_chip"] > WORTH_A_WORD * (sizes["parameters"] + sizes["optimizer"]):
        answers.print(
            f"{left['arrays']} arrays of parameters and optimizer, {left['bytes_per_chip'] / MIB:,.1f} MiB of each "
            f"device, are not cut as the mesh says: it does not divide them ({left['such_as']})"
        )
    for phase in report["phases"]:
        _memory(phase)
        _collectives(phase["collectives_per_step"])
        _work(phase)


def idle(mesh: Mapping[str, int], used: int, left: int) -> str:
    """What is to be said of devices that are left over: which sizes would take them."""
    most = (used + left) // (used // mesh["data"])
    if most > mesh["data"]:
        return f"{left} devices have nothing to do: give --mesh.data {most}, or leave it out"
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.items() if name != "data" and size > 1)
    return f"{left} devices have nothing to do: {sizes} does not divide {used + left}"


def _memory(phase: dict[str, Any]) -> None:
    title = f"{phase['steps']:,} steps of {phase['batch_size']:,} x {phase['length']:,}"
    sizes = phase["bytes_per_chip"]
    state = {name: sizes[name] for name in ("parameters", "optimizer", "batch")}
    answers.print(
        memory_table(title, {**state, TEMPORARIES: sizes["temporaries"], "the program itself": sizes["program"]})
    )
    mend = phase.get("would_mend_it", ())
    also = ". Each of these should mend it (plan it to be sure):" if mend else ""
    answers.print(verdict(phase["fits"], sizes["needed"], sizes["available"]) + also)
    for cure in mend:
        answers.print(f"  {cure}")


def _collectives(found: list[dict[str, Any]]) -> None:
    if not found:
        return
    table = Table("collectives of a step", "across", "devices", "times", "MiB", "MiB each device sends")
    for one in found:
        sizes = (f"{one[name] / MIB:,.2f}" for name in ("bytes", "sent"))
        table.add_row(one["kind"], " x ".join(one["axes"]), str(one["devices"]), f"{one['times']:,}", *sizes)
    answers.print(table)


def _work(phase: dict[str, Any]) -> None:
    table = Table("work of a step", "")
    table.add_row("tokens", f"{phase['tokens_per_step']:,}")
    flops, memory = phase["flops_per_step"], phase["bytes_per_chip"]
    used = memory["needed"] / (memory["available"] or math.inf)
    by_compiler = f" ({counted(flops['ratio'], phase['remat'], used)})" if flops["ratio"] else ""
    table.add_row("FLOP by formula", f"{flops['formula']:.4g}{by_compiler}")
    if estimate := phase.get("estimate"):
        each = ", ".join(f"{name} {value:.2f} ms" for name, value in estimate["milliseconds"].items() if value)
        without = "".join(f"; {name} is not counted" for name in estimate.get("not_counted", ()))
        table.add_row("estimate: each at its peak", each + without)
        if "binds" in estimate:
            took, rate = estimate["step_milliseconds"], estimate["tokens_per_second"]
            table.add_row(
                f"estimate: {estimate['binds']} binds",
                f"{took:.2f} ms a step, {rate:,.0f} tokens/s, MFU {estimate['mfu']:.0%}, were all of it at once",
            )
    table.add_row("compiling", "known from before" if phase["from_cache"] else f"{phase['compile_seconds']:,.1f} s")
    answers.print(table)


def counted(ratio: float, remat: str, used: float) -> str:
    """How many FLOPs the compiler counts for each of the formula's, and what follows; `used` is of a chip's memory."""
    found = f"the compiler counts {ratio:.2f} times as many"
    if ratio < 1.0:  # with `fsdp` XLA for TPUs computes products in loops, and sends a part of a kernel in each round
        return f"{found}: of a loop one round"
    if ratio <= RECOMPUTED or used <= FULL or remat != "none":
        return found
    return f"{found}: it computes some of it again, to save memory"
