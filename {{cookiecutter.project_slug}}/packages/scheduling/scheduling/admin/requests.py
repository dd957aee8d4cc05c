"""Requests that no page makes: Django's lists answer many of them with 500."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import BadRequest, FieldDoesNotExist, ValidationError
from django.db.models import BooleanField, CharField, TextField
from django.http import HttpRequest, HttpResponse

MAX_SEARCH = 200  # characters, as in a name; a condition for each of 2,000 words is too much
TEXT_LOOKUPS = {"", "exact", "isnull"} | {
    prefix + kind for prefix in ("", "i") for kind in ("contains", "startswith", "endswith")
}


class SearchForm(forms.Form):
    """What a list is searched for, in ``q``, with further texts that narrow it."""

    def __init__(self, *args: Any, texts: tuple[str, ...] = ()) -> None:
        super().__init__(*args)
        for name in (SEARCH_VAR, *texts):
            self.fields[name] = forms.CharField(
                required=False, strip=False, max_length=MAX_SEARCH, label=name
            )


class CheckedRequests(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Answers 400 where Django's own admin takes a query string or a form at its word."""

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Filter by the row's own texts and switches only, and by no regular expression.

        Django does not check the numbers and dates of others; a regular expression may take hours.
        """
        name, _, kind = lookup.partition("__")
        try:
            field = self.opts.get_field(name)
        except FieldDoesNotExist:  # a filter of the list, which checks its value, or nothing
            return name != "pk" and super().lookup_allowed(lookup, value, request)
        is_text = isinstance(field, CharField | TextField | BooleanField)
        return is_text and kind in TEXT_LOOKUPS and "\0" not in value

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        return super().get_object(request, object_id, from_field or None)

    def response_action(
        self, request: HttpRequest, queryset: Any, *rest: Any, **options: Any
    ) -> HttpResponse | None:
        for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                self.opts.pk.clean(key, None)
            except ValidationError as error:
                raise BadRequest(f"{ACTION_CHECKBOX_NAME}: {error}") from None
        return super().response_action(request, queryset, *rest, **options)
