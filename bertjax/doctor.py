"""`bertjax doctor`: whether this machine, or every host of a cluster, is ready for a run; what is not, and its cure."""

import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import jax
from rich.table import Table

from bertjax.data.meta import Meta, again, file_hash
from bertjax.errors import ConfigError, DevicesError, StorageError, UserError
from bertjax.folders import STALE, foreign
from bertjax.jsonio import read_json
from bertjax.paths import as_path, fetched, remote, sizes
from bertjax.storage import known_error, writing
from bertjax.train import hosts
from bertjax.train.cluster import TPU_LOCK, HostsConfig, cluster, unused_chips
from bertjax.train.log import answers
from bertjax.train.mesh import make_mesh
from bertjax.train.steps import folder_of, steps_of, unfinished
from bertjax.use import Doctor

ENOUGH = 10 << 30  # bytes that a run and its checkpoints should find free, where nothing is known of their size


class Finding(NamedTuple):
    """One line: "ok", "warn" or "fail", what was looked at, what was seen, and what to do."""

    state: str
    what: str
    seen: str
    cure: str = ""


def doctor(config: Doctor, process: HostsConfig) -> None:
    """Looks at everything; raises where something will make a run fail."""
    findings = list(_machine(process))
    alone = findings[-1].state == "fail"  # without the others there are no devices either
    if not alone:
        findings += _devices(config)
    for folder in config.data:
        findings += _read(f"data {folder}", _data(as_path(folder)))
    if not alone:
        out = as_path(config.out) if config.out else None
        made = [] if out is None or remote(out) else [path for path in (out, *out.parents) if not path.exists()]
        findings += _read(f"run {out}", _run(out)) if out is not None else []
        findings += _of_others(findings)
        for path in made:  # to try it
            with suppress(OSError):
                path.rmdir()
    if alone or hosts.first():
        _show(findings)
    failed = sum(finding.state == "fail" for finding in findings)
    if failed and not alone:
        hosts.stopped_together()
    if failed:
        raise ConfigError(f"{failed} of {len(findings)} checks failed: see the cures in the table")


def _machine(process: HostsConfig) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{sys.version.split()[0]}, bertjax {version('bertjax')}")
    yield _versions()
    if TPU_LOCK.exists() and not os.access(TPU_LOCK, os.W_OK):
        cure = f"end their run, or: sudo rm -f {TPU_LOCK}"
        yield Finding("fail", "TPU lock", f"{TPU_LOCK} belongs to another user", cure)
    try:
        hosts.join(process)
    except DevicesError as error:
        yield Finding("fail", "devices", *str(error).rsplit("; ", 1))
        return
    except UserError as error:
        yield Finding("fail", "cluster", cluster() or "as told", str(error))
        return
    count = jax.process_count()
    seen = f"process {jax.process_index()} of {count}" if count > 1 else "one process alone"
    yield Finding("ok", "cluster", seen + (f", found by {found}" if (found := cluster()) else ""))


def _versions() -> Finding:
    """jax, jaxlib and what drives the chips must be of one release."""
    installed = {"jax": version("jax"), "jaxlib": version("jaxlib")}
    wanted = {"jaxlib": installed["jax"]}
    for line in requires("jax") or ():
        if found := re.match(r"(libtpu|jax-cuda\d+-plugin)[^=]*==([\w.]+)", line):
            name, number = found[1], found[2].removesuffix(".").removesuffix(".*")
            try:
                installed[name] = version(name)
                wanted[name] = number
            except PackageNotFoundError:
                continue
    wrong = [name for name, number in wanted.items() if not f"{installed[name]}.".startswith(f"{number}.")]
    seen = ", ".join(f"{name} {number}" for name, number in installed.items())
    if not wrong:
        return Finding("ok", "versions", seen)
    cure = " ".join(f"'{name}=={wanted[name]}'" for name in wrong)
    return Finding("fail", "versions", seen, f"pip install {cure} (what jax {installed['jax']} goes with)")


def _devices(config: Doctor) -> Iterator[Finding]:
    devices = jax.devices()
    try:
        mesh = make_mesh(config.mesh)
    except ConfigError as error:
        yield Finding("fail", "mesh", f"{len(devices)} devices", str(error))
        return
    here = f"{len(jax.local_devices())} here, {len(devices)} in all: {devices[0].device_kind}"
    unused = unused_chips()
    yield (
        Finding("fail", "devices", f"{here}, but {unused.what}", unused.cure)
        if unused
        else Finding("ok", "devices", here)
    )
    yield Finding("ok", "mesh", ", ".join(f"{name} {size}" for name, size in mesh.shape.items()))


def _read(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, up to a file that is there and cannot be read."""
    try:
        yield from findings
    except (OSError, StorageError) as error:
        known = error if isinstance(error, UserError) else known_error(error)
        if not known:
            raise
        yield Finding("fail", what, *str(known).rsplit("; ", 1))


def _data(folder: Path) -> Iterator[Finding]:
    what = f"data {folder}"
    try:
        meta = Meta.load(folder)
        meta.tokenizer(folder)
    except UserError as error:
        yield Finding("fail", what, "cannot be used", str(error))
        return
    shards = [shard for files in meta.splits.values() for shard in files]
    bad = meta.faults(folder)
    if not remote(folder):
        bad += [f"{shard.name}: not readable" for shard in shards if not os.access(folder / shard.name, os.R_OK)]
    if bad:
        yield Finding("fail", what, f"not all of {len(shards)} shards can be read: {bad[0]}", again(folder))
    else:
        smallest = min(shards, key=lambda shard: shard.tokens)
        with fetched(folder / smallest.name) as here:
            whole = file_hash(here) == smallest.sha256
        seen = f"{len(shards)} shards, {sum(shard.tokens for shard in shards):,} tokens"
        yield (
            Finding("ok", what, seen) if whole else Finding("fail", what, f"{smallest.name} is damaged", again(folder))
        )


def _run(folder: Path) -> Iterator[Finding]:
    what = f"run {folder}"
    try:
        hosts.check_shared(folder)
        _try_to_write(folder)
    except (OSError, UserError) as error:
        yield Finding("fail", what, f"cannot be written: {error}", "give a folder that you, on all hosts, may write")
        return
    yield _begun(folder, what)
    if found := _files(folder, STALE):
        yield Finding(
            "warn", "stale files", ", ".join(found), "of a run that was killed: what is begun anew removes them"
        )
    if others := foreign(folder):
        state = "warn" if steps_of(folder) else "fail"  # no run begins among files of others
        cure = "not of a run of bertjax; is it the right folder?"
        yield Finding(state, "foreign files", ", ".join(others[:5]), cure)
    if not remote(folder):
        yield _space(folder)


def _try_to_write(folder: Path) -> None:
    if remote(folder):
        with writing(folder):
            file = folder / f".shared-{jax.process_index()}-{secrets.token_hex(4)}"
            file.touch()
            file.unlink()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"bertjax")


def _begun(folder: Path, what: str) -> Finding:
    if writer := hosts.writer_of(folder):
        return Finding("fail", what, f"is being written by {writer}", "end that run, or give another --out")
    if not (folder / "config.json").exists():
        return Finding("ok", what, "can be written; nothing is begun")
    try:
        command = read_json(folder / "config.json", "pretrain and finetune").get("command", "?")
    except UserError as error:
        return Finding("fail", what, "config.json is damaged", f"{error}; delete it: the next start writes it anew")
    done = steps_of(folder)
    seen = f"a {command} run, last checkpoint of step {done[-1]}" if done else f"a {command} run without a checkpoint"
    return Finding("ok", what, f"{seen}; the same command goes on")


def _files(folder: Path, pattern: str) -> list[str]:
    places = [folder, folder / "checkpoints"]
    if remote(folder):
        return [e.name for e in folder.iterdir() if re.fullmatch(pattern, e.name)] + [
            e.name for e in unfinished(folder)
        ]
    return [e.name for place in places if place.is_dir() for e in place.iterdir() if re.fullmatch(pattern, e.name)]


def _space(folder: Path) -> Finding:
    """Room for two more checkpoints like the largest there is."""
    taken = [sum(sizes(folder_of(folder, step)).values()) for step in steps_of(folder)]
    needed, free = 2 * max(taken, default=0), shutil.disk_usage(folder).free
    seen = f"{free / 2**30:,.1f} GiB free" + (f", {needed / 2**30:,.2f} for two checkpoints" if needed else "")
    if free < max(needed, 64 << 20):
        return Finding("fail", "disk", seen, "make room, or give --out on another disk")
    low = free < ENOUGH and not needed
    return (
        Finding("warn", "disk", seen, "a checkpoint of BERT-base takes 1.3 GiB") if low else Finding("ok", "disk", seen)
    )


def _of_others(findings: list[Finding]) -> list[Finding]:
    """What is not well in the other processes."""
    bad = [finding for finding in findings if finding.state != "ok"]
    if jax.process_count() == 1:
        return []
    said = [json.loads(text) for text in hosts.gather(_brief(bad[:2]))]
    own = jax.process_index()
    return [
        Finding(state, f"process {number}: {what}", seen, cure)
        for number, others in enumerate(said)
        if number != own
        for state, what, seen, cure in others
    ]


def _brief(findings: list[Finding]) -> str:
    """As JSON that one process can tell the others."""
    for longest in (200, 80, 20):
        text = json.dumps([[part[:longest] for part in finding] for finding in findings])
        if len(text) <= hosts.LONGEST:
            return text
    raise AssertionError("20 characters of JSON are 120 bytes at most")


def _show(findings: list[Finding]) -> None:
    table = Table("", "what", "seen", "cure")
    for column in table.columns[1:]:
        column.overflow = "fold"
    for finding in findings:
        table.add_row(*finding)
    answers.print(table)
