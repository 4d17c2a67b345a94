#!/usr/bin/env bash
# Lint, types and tests, in the environment of the quickstart. Arguments go to pytest: launch/test.sh -m slow
# Without any, launch/parity.sh comes after them.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh test

ruff check .
ruff format --check .
mypy
shellcheck launch/*.sh launch/slurm.sbatch .ci/run
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
[ $# -gt 0 ] || pytest --numprocesses 2 -m slow tests/verbs/test_kills.py
[ $# -gt 0 ] || exec launch/parity.sh
