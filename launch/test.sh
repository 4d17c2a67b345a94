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
hosts=tests/verbs/test_several_hosts.py::test
resume=tests/verbs/test_resume.py::test
endings=tests/verbs/test_endings.py::test
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m slow \
    tests/test_readme.py::test_the_commands_step_by_step tests/verbs/test_kills.py::test_killed_at_random_moments \
    ${hosts}_{an_error_of_one_process_ends_all_and_is_told_once,the_doctor_of_process_0_sees_what_ails_the_others} \
    ${hosts}_{examples_masks_and_losses_are_those_of_one_process,a_manifest_lists_what_all_processes_wrote} \
    ${hosts}_a_signal_to_one_stops_all_after_the_same_step_and_one_process_goes_on \
    ${hosts}_fine_tuned_evaluated_and_predicted_together \
    "${endings}_several_processes_stop_after_the_same_step[False]" \
    "${endings}_where_a_process_is_lost_the_others_say_which_and_end[2-1]" \
    ${resume}_{another_mesh_keeps_the_order_of_the_data_and_the_losses,stopped_and_resumed_is_the_run_left_alone} \
    ${resume}_fine_tuning_resumed_is_fine_tuning_left_alone \
    tests/verbs/test_{compiled,suite,secrets,full_disk}.py tests/test_bench_gpu.py \
    tests/train/test_saver.py::test_a_disk_that_fills_up_anywhere
exec launch/parity.sh
