"""bench/results.py, and that every table kept says where it is from."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import host_overhead
import jax
import peers
import results
from batches import random_batch

from bertjax.models.bert import PRESETS
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import init_state

ROOT = results.ROOT
TABLES = sorted(path for path in (ROOT / "bench/results").rglob("*.md") if path.name != "README.md")


@pytest.fixture
def cores(monkeypatch):
    def bind(*numbers):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(numbers), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)

    bind(0, 1)
    return bind


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bench/some.py"), *words])
    return results.command()


def test_a_command_can_be_typed_and_names_no_place(monkeypatch, cores):
    words = ["train", "--torch", sys.executable, "--data", "/a", "/b", "--rows", "8", "--out", f"{ROOT}/bench/results"]
    told = "python bench/some.py train --torch PYTHON --data DATA DATA --rows 8 --out bench/results"
    assert typed(monkeypatch, *words) == told
    cores(1)
    assert typed(monkeypatch, "/c") == "taskset -c 1 python bench/some.py PATH"


def test_a_table_is_median_and_range():
    lines = results.table(("name", "s"), [("ours", results.spread([3.0, 1.0, 1.5], 1)), ("one", results.spread([2]))])
    assert lines == ["| name | s |", "|---|---|", "| ours | 1.5 (1.0 to 3.0) |", "| one | 2.000 (2.000 to 2.000) |"]


def test_figures_and_table_say_how_they_came(monkeypatch, cores, tmp_path, capsys):
    command = typed(monkeypatch, "--rounds", "2")
    out = results.parser("about").parse_args(["--out", str(tmp_path / "new")]).out
    results.write(out, "some", ["a line"], {"runs": [1, 2]})
    kept, text = json.loads((out / "some.json").read_text()), (out / "some.md").read_text()
    assert kept["runs"] == [1, 2] and kept["command"] == command and kept["machine"]["cores"] == 2
    assert kept["versions"]["bertjax"].keys() >= {"jax", "jaxlib", "flax"}
    assert re.match(r"\d{4}-\d\d-\d\d$", kept["date"]) and kept["commit"]
    assert text.startswith("# some\n\na line\n\n- `python bench/some.py --rounds 2`; 20") and "jaxlib" in text
    assert capsys.readouterr().out == text


def test_the_loop_is_measured_with_as_many_arrays_as_a_step_has_and_the_old_ones_are_given_up():
    mesh = make_mesh(MeshConfig(data=1))
    idle, batch = host_overhead.Idle.of("tiny", mesh), random_batch([[16]] * 2, 16, 512, np.random.default_rng(0))
    begin, real = idle.state(), init_state(mlm.Config().build(PRESETS["tiny"]), Optimizer().build(9), seed=0, mesh=mesh)
    after, metrics = idle.step(begin, put_batch(batch, mesh))
    assert jax.tree.structure(after) == jax.tree.structure(real) and "mlm_loss" in metrics
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(begin))
    assert idle.calls(2, batch) > 0 and idle.loop(2, batch) > 0


ECHO = """
import json, os, sys
told = json.loads(sys.argv[1]) | {name: os.environ.get(name, "") for name in ("MALLOC_ARENA_MAX", "XLA_FLAGS")}
print(json.dumps(told), flush=True)
sys.stdin.read()
"""


def test_programs_are_told_what_their_names_say(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "WORKERS", tmp_path)
    told = {}
    for name, peer in peers.PEERS.items():
        (tmp_path / peer.worker).write_text(ECHO)
        worker = peers.Worker(name, sys.executable, {"packed": "FILE", "env": {}})
        worker.stop()
        told[name] = worker.first
    assert {name for name in told if not told[name]["packed"]} == {"bertjax padded"}
    assert {name for name in told if "onednn" in told[name]["XLA_FLAGS"]} == {"bertjax with oneDNN"}
    assert {name for name in told if told[name].get("flops") == 0} == {"bertjax without oneDNN"}
    assert {name for name in told if told[name].get("compiled")} == {"torch compiled"}
    for word, name in (("MALLOC_ARENA_MAX", "freed memory kept"), ("gathered", "masked positions gathered")):
        assert {n for n in told if told[n].get(word)} == {n for n in told if name in n} != set()


@pytest.mark.parametrize("table", peers.TABLES.values(), ids=peers.TABLES)
def test_a_table_of_programs_has_the_wall_clock_and_says_who_gathers(table):
    turns = [{"cpu": cpu, "wall": 2 * cpu, "peak_mib": 1.0} for cpu in (0.5, 1.0, 1.5)]
    found = {name: {"first": turns[0], "turns": turns} for name in table.peers}
    for lines in (peers.step_table(found, 1024), peers.start_table(found)):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [row[0] for row in rows] == list(table.peers) and all(len(row) == len(head) for row in rows)
        assert all(row[head.index("wall-s, median")] == "2.000" for row in rows)
    said = "\n".join(peers.remarks(list(table.peers), table))
    assert table.what == "inference" or (
        "masked positions alone: bertjax" in said and "At all positions: torch" in said
    )
    assert ("are padded" in said) == table.packed


def test_options_that_cannot_be_are_told_before_anything_is_measured(capsys, tmp_path):
    assert set(results.PRESETS) == set(PRESETS)
    parser = results.parser("")
    parser.add_argument("--rounds", type=results.count)
    parser.add_argument("--torch", type=results.python)
    for options, told in (
        (["--rounds", "0"], "'0' is no whole number from 1"),
        (["--torch", str(tmp_path / "python")], "there is no program"),
        (["--out", "/dev/null/results"], "/dev/null/results: Not a directory"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(options)
        assert told in capsys.readouterr().err
    chosen = parser.parse_args(["--rounds", "2", "--torch", sys.executable, "--out", str(tmp_path / "new")])
    assert (chosen.rounds, chosen.torch, chosen.out.is_dir()) == (2, sys.executable, True)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_says_where_it_is_from(path):
    page = (ROOT / "bench/results/README.md").read_text()
    assert path.parent.name == "results" and f"`{path.stem}`" in page
    assert re.search(r"^- .*\d{4}-\d\d-\d\d, commit \w{7}", path.read_text(), re.MULTILINE)


def test_the_page_of_tables_names_scripts_that_are_there():
    scripts = re.findall(r"python (bench/\w+\.py)", (ROOT / "bench/results/README.md").read_text())
    assert scripts and all((ROOT / script).is_file() for script in scripts)
