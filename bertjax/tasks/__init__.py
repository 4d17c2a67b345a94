"""Tasks by name: every module here without a leading underscore has a table `TASKS`."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from bertjax import registry
from bertjax.contracts import Task
from bertjax.errors import ConfigError, closest
from bertjax.tasks._columns import Columns, ColumnTask, of_columns, with_labels


def all_tasks() -> dict[str, Task]:
    """The tasks that come with bertjax, by name."""
    tables = [registry.find("tasks", module).TASKS for module in registry.names("tasks")]
    return {name: task for table in tables for name, task in table.items()}


def find(name: str, columns: Columns | None = None) -> Task:
    """The task called `name`; `my_lab.tasks.reviews.films` is `films` in the TASKS of `my_lab.tasks.reviews`.

    The task `text` is one of the user's own files, whose `columns` hold texts and labels.
    """
    module, _, task = name.rpartition(".")
    tasks = getattr(registry.find("tasks", module), "TASKS", {}) if module else all_tasks()
    if task not in tasks:
        raise ConfigError(f"there is no task {name!r}{closest(task, tasks)}")
    found = tasks[task]
    if columns and isinstance(found, ColumnTask):
        return of_columns(columns)
    if columns not in (None, Columns()):
        raise ConfigError(f"columns are of the user's own files (task=text); those of {name} are known, leave them out")
    return found


def resolved(name: str, columns: Columns, data_dir: str) -> Columns:
    """The columns with the labels of the user's training file; those of other tasks are known."""
    return with_labels(columns, data_dir) if isinstance(find(name, columns), ColumnTask) else columns


def with_settings(task: Task, settings: Sequence[str]) -> Task:
    """The task with other numbers, each as "name=number", like the stride of its windows."""
    if not settings:
        return task
    given: Any = task  # a dataclass, as all tasks are
    numbers = {f.name: getattr(given, f.name) for f in fields(given) if type(getattr(given, f.name)) is int}
    changes = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in numbers:
            others = closest(key, numbers) if numbers else " and no other"
            raise ConfigError(f"{task.name} has no setting {key!r}{others}")
        if not re.fullmatch("[1-9][0-9]{0,5}", value):
            raise ConfigError(f"{task.name}: {setting!r} needs a number from 1 to 999999, as in {key}={numbers[key]}")
        changes[key] = int(value)
    return replace(given, **changes)
