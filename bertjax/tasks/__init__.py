"""Tasks by name: every module here without a leading underscore has a table `TASKS`."""

from bertjax import registry
from bertjax.contracts import Task
from bertjax.errors import ConfigError, closest


def all_tasks() -> dict[str, Task]:
    """The tasks that come with bertjax, by name."""
    tables = [registry.find("tasks", module).TASKS for module in registry.names("tasks")]
    return {name: task for table in tables for name, task in table.items()}


def find(name: str) -> Task:
    """The task called `name`; `my_lab.tasks.reviews.films` is `films` in the TASKS of `my_lab.tasks.reviews`."""
    module, _, task = name.rpartition(".")
    tasks = registry.find("tasks", module).TASKS if module else all_tasks()
    if task not in tasks:
        raise ConfigError(f"there is no task {name!r}{closest(task, tasks)}")
    return tasks[task]
