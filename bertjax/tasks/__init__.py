"""Tasks by name: every module here without a leading underscore has a table `TASKS`."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from bertjax import registry
from bertjax.contracts import Task
from bertjax.errors import ConfigError, closest


def all_tasks() -> dict[str, Task]:
    """The tasks that come with bertjax, by name."""
    tables = [registry.find("tasks", module).TASKS for module in registry.names("tasks")]
    return {name: task for table in tables for name, task in table.items()}


def find(name: str, settings: Sequence[str] = ()) -> Task:
    """The task called `name`; `my_lab.tasks.reviews.films` is `films` in the TASKS of `my_lab.tasks.reviews`.

    `settings` are "name=number" for numbers that a task has, like the stride of its windows.
    """
    module, _, known_as = name.rpartition(".")
    tasks = registry.find("tasks", module).TASKS if module else all_tasks()
    if known_as not in tasks:
        raise ConfigError(f"there is no task {name!r}{closest(known_as, tasks)}")
    return _with(tasks[known_as], settings) if settings else tasks[known_as]


def _with(task: Any, settings: Sequence[str]) -> Task:  # noqa: ANN401 (a Task that is a dataclass)
    numbers = {f.name: getattr(task, f.name) for f in fields(task) if type(getattr(task, f.name)) is int}
    changes = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in numbers:
            others = closest(key, numbers) if numbers else " and no other"
            raise ConfigError(f"{task.name} has no setting {key!r}{others}")
        if not re.fullmatch("[1-9][0-9]{0,5}", value):
            raise ConfigError(f"{task.name}: {setting!r} needs a number from 1 to 999999, as in {key}={numbers[key]}")
        changes[key] = int(value)
    return replace(task, **changes)
