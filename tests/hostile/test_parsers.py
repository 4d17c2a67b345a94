"""No file makes a parser raise anything but a UserError, take long or fill the memory.

A few spoilt files of each kind are tried, always the same; BERTJAX_FUZZ=1000 tries as many new ones of each.
"""

import os
import resource
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mutations import spoilt
from targets import TARGETS
from task_targets import RUN_TARGETS, TASK_TARGETS

ALL = {**TARGETS, **TASK_TARGETS, **RUN_TARGETS}
ASKED = int(os.environ.get("BERTJAX_FUZZ", "0"))
SECONDS, KIB = 5.0, 300 << 10  # that one file may take


@pytest.mark.parametrize("name", ALL)
def test_valid_files_are_read(name):
    for data in ALL[name].seeds():
        assert ALL[name](data) == ""


@pytest.mark.parametrize("name", ALL)
def test_spoilt_files_are_read_or_refused(name):
    target = ALL[name]

    @settings(
        max_examples=ASKED or (8 if target.heavy else 40),
        deadline=None,
        database=None,
        derandomize=not ASKED,
        phases=[Phase.generate],  # files need not be made smaller to be understood, and that takes long
        suppress_health_check=list(HealthCheck),
    )
    @given(spoilt(target.seeds()))
    def run(data):
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        message = target(data)
        assert time.process_time() - began < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB
        assert not message or target.says_where(message), message

    run()
