"""Tasks by name: every module here without a leading underscore has a table `TASKS`."""

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
    tasks = registry.find("tasks", module).TASKS if module else all_tasks()
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
