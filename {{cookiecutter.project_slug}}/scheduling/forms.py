"""A periodic task's form, which refuses what no worker could run."""

import inspect
import json
from typing import Any

from celery import current_app
from django import forms
from django_celery_beat.admin import PeriodicTaskForm as Base
from django_celery_beat.models import PeriodicTask


def registered_tasks() -> dict[str, Any]:
    """The tasks that a worker of this service knows, but for Celery's own, by their names."""
    current_app.loader.import_default_modules()
    return {
        name: task
        for name, task in sorted(current_app.tasks.items())
        if not name.startswith("celery.")
    }


def task_choices() -> list[tuple[str, str]]:
    """Each task with the first line of its docstring."""
    choices = [("", "---------")]
    for name, task in registered_tasks().items():
        line = (inspect.getdoc(task.run) or "").partition("\n")[0]
        choices.append((name, f"{name}: {line}" if line else name))
    return choices


class PeriodicTaskForm(Base):  # type: ignore[misc]  # it has no types
    regtask = None
    task = forms.ChoiceField(
        choices=task_choices, help_text="What the workers of this service can do."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in {"start_time", "expires"} & self.fields.keys():
            for part, widget in zip(
                ("date", "time"), self.fields[name].widget.widgets, strict=True
            ):
                widget.attrs["aria-label"] = f"{self.fields[name].label}, {part}"  # Django has none
        stored = self.instance.task
        if "task" in self.fields and stored and stored not in registered_tasks():
            choices = [*task_choices(), (stored, f"{stored}: no worker knows it")]
            self.fields["task"].choices = choices

    def clean_task(self) -> str:
        name: str = self.cleaned_data["task"]
        if name not in registered_tasks():
            raise forms.ValidationError("No worker knows this task: choose another.")
        return name

    def clean_args(self) -> str:
        return self._json("args", list, "a list, such as [1, 2]") or "[]"

    def clean_kwargs(self) -> str:
        return self._json("kwargs", dict, 'an object, such as {"name": "value"}') or "{}"

    def clean_headers(self) -> str:
        return self._json("headers", dict, 'an object, such as {"name": "value"}')

    def _json(self, field: str, kind: type, example: str) -> str:
        text: str = self.cleaned_data[field] or ""
        if not text.strip():
            return ""
        try:
            value = json.loads(text)
        except ValueError as error:
            raise forms.ValidationError(f"This is no JSON: {error}. Write {example}.") from None
        if not isinstance(value, kind):
            raise forms.ValidationError(f"This is JSON, but not what is wanted: write {example}.")
        return text

    def clean(self) -> dict[str, Any]:
        """The arguments must fit the task: a worker would fail with them at each run."""
        data: dict[str, Any] = forms.ModelForm.clean(self)  # type: ignore[assignment]
        if data.get("expires") and data.get("expire_seconds") is not None:
            self.add_error("expire_seconds", "Give either a date or seconds for its expiry.")
        if data.keys() >= {"task", "args", "kwargs"}:
            task = registered_tasks()[data["task"]]
            signature = inspect.signature(task.run)
            try:
                signature.bind(*json.loads(data["args"]), **json.loads(data["kwargs"]))
            except TypeError as error:
                self.add_error("args", f"The task takes {signature}: {error}.")
        return data

    class Meta:
        model = PeriodicTask
        exclude = ()
