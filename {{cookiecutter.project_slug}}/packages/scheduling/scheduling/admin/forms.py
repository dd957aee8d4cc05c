"""The form of a periodic task, which refuses what no worker could run."""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import current_app
from django import forms
from django_celery_beat.admin import PeriodicTaskForm as Base
from django_celery_beat.models import PeriodicTask

from scheduling.messages import check_destination, check_headers, load_json


def registered_tasks() -> dict[str, Any]:
    """The tasks that this service's workers know, without Celery's own, by name."""
    current_app.loader.import_default_modules()
    return {
        name: task
        for name, task in sorted(current_app.tasks.items())
        if not name.startswith("celery.")
    }


def task_choices() -> list[tuple[str, str]]:
    """An empty choice, then each task with the first line of its docstring."""
    choices = [("", "---------")]
    for name, task in registered_tasks().items():
        line = (inspect.getdoc(task.run) or "").partition("\n")[0]
        choices.append((name, f"{name}: {line}" if line else name))
    return choices


@contextmanager
def as_error_of_a_field() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise forms.ValidationError(str(error)) from None


class PeriodicTaskForm(Base):  # type: ignore[misc]  # django-celery-beat has no types
    regtask = None
    task = forms.ChoiceField(
        choices=task_choices, help_text="The tasks that this service's workers know."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._label_date_and_time()
        self._keep_stored_task()

    def _label_date_and_time(self) -> None:
        """Name both inputs of each moment for screen readers: Django names neither."""
        for name in {"start_time", "expires"} & self.fields.keys():
            field = self.fields[name]
            for part, widget in zip(("date", "time"), field.widget.widgets, strict=True):
                widget.attrs["aria-label"] = f"{field.label}, {part}"

    def _keep_stored_task(self) -> None:
        """Show the row's task even if no worker knows it any more."""
        stored = self.instance.task
        if "task" in self.fields and stored and stored not in registered_tasks():
            choices = [*task_choices(), (stored, f"{stored}: no worker knows it")]
            self.fields["task"].choices = choices

    def clean_task(self) -> str:
        name: str = self.cleaned_data["task"]
        if name not in registered_tasks():
            raise forms.ValidationError("No worker knows this task. Choose another one.")
        return name

    def clean_args(self) -> str:
        return self._clean_json("args", list, "a list, such as [1, 2]") or "[]"

    def clean_kwargs(self) -> str:
        return self._clean_json("kwargs", dict, 'an object, such as {"name": "value"}') or "{}"

    def clean_headers(self) -> str:
        text = self._clean_json("headers", dict, 'an object, such as {"name": "value"}')
        with as_error_of_a_field():
            check_headers(json.loads(text or "{}"))
        return text or "{}"

    def clean_queue(self) -> str | None:
        return self._clean_destination("queue")

    def clean_exchange(self) -> str | None:
        return self._clean_destination("exchange")

    def clean_routing_key(self) -> str | None:
        return self._clean_destination("routing_key")

    def _clean_destination(self, field: str) -> str | None:
        name: str | None = self.cleaned_data[field]
        with as_error_of_a_field():
            check_destination(name or "")
        return name

    def _clean_json(self, field: str, kind: type, example: str) -> str:
        """A field's text as given, empty if blank. Raises unless it is JSON of a kind."""
        text: str = self.cleaned_data[field] or ""
        if not text.strip():
            return ""
        try:
            value = load_json(text)
        except ValueError as error:
            raise forms.ValidationError(f"This is not JSON: {error}. Write {example}.") from None
        if not isinstance(value, kind):
            raise forms.ValidationError(f"This JSON has the wrong type. Write {example}.")
        return text

    def clean(self) -> dict[str, Any]:
        """Refuse two expiries, and arguments that the task does not take."""
        data: dict[str, Any] = forms.ModelForm.clean(self)  # type: ignore[assignment]
        if data.get("expires") and data.get("expire_seconds") is not None:
            self.add_error("expire_seconds", "Set either a date or seconds for the expiry.")
        if data.keys() >= {"task", "args", "kwargs"}:
            signature = inspect.signature(registered_tasks()[data["task"]].run)
            try:
                signature.bind(*json.loads(data["args"]), **json.loads(data["kwargs"]))
            except TypeError as error:
                self.add_error("args", f"The task takes {signature}: {error}.")
        return data

    class Meta:
        model = PeriodicTask
        exclude = ()
