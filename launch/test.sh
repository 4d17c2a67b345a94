#!/usr/bin/env bash
# Lint, types and tests, in the environment of the quickstart. Arguments go to pytest: launch/test.sh -m slow
# Without any, these long ones and launch/parity.sh come after them.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh test

ruff check .
ruff format --check .
mypy
shellcheck launch/*.sh launch/slurm.sbatch .ci/run
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
[ $# -eq 0 ] || exit 0
pytest --numprocesses 2 --dist worksteal -m slow tests/test_readme.py::test_the_commands_step_by_step \
    tests/verbs/test_kills.py::test_killed_at_random_moments tests/test_bench_gpu.py \
    tests/verbs/test_compiled.py tests/verbs/test_suite.py tests/verbs/test_secrets.py \
    tests/verbs/test_resume.py::test_another_mesh_keeps_the_order_of_the_data_and_the_losses \
    tests/verbs/test_resume.py::test_stopped_and_resumed_is_the_run_left_alone \
    tests/verbs/test_endings.py::test_several_processes_stop_after_the_same_step \
    tests/verbs/test_endings.py::test_where_a_process_is_lost_the_others_say_which_and_end
exec launch/parity.sh
