"""The SMS Spam Collection (`label TAB text`, no header), and classification or regression of the user's own texts."""

from bertjax.contracts import Task
from bertjax.tasks._columns import Columns, of_columns
from bertjax.tasks._sentences import File, SentenceTask

SMS_SPAM = SentenceTask(
    name="sms_spam",
    source="SMS Spam Collection (Almeida and Hidalgo 2011), CC BY 4.0",
    folder="sms_spam",
    splits={split: File((f"{split}.tsv",), ("label", "text")) for split in ("train", "dev", "test")},
    texts=("text",),
    label="label",
    labels=("ham", "spam"),
    metrics=("f1", "accuracy"),  # not accuracy first: seven of eight messages are ham
)

TASKS: dict[str, Task] = {task.name: task for task in (SMS_SPAM, of_columns(Columns()))}
