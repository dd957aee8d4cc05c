"""A mypy plugin: a task's types as they are in a Django project, which celery-types lacks.

Tasks have ``delay_on_commit`` and ``apply_async_on_commit``, and ``args`` may be a list. In
``[tool.mypy]``: ``plugins = ["mypy_django_plugin.main", "scheduling.mypy_plugin"]``.
"""

from collections.abc import Callable

from mypy.nodes import MypyFile, TypeInfo
from mypy.plugin import FunctionContext, MethodContext, MethodSigContext, Plugin
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    NoneType,
    Type,
    TypeOfAny,
    UnionType,
    get_proper_type,
)

TASK = "celery.app.task.Task"
DJANGO_MODULE = "celery.contrib.django.task"
DJANGO_TASK = f"{DJANGO_MODULE}.DjangoTask"
MAKERS = {"celery.app.shared_task", "celery.app.base.Celery.task"}
METHODS = ("apply", "apply_async", "apply_async_on_commit")
CALLS = {f"{task}.{method}" for task in (TASK, DJANGO_TASK) for method in METHODS}
PRIORITY = 10  # of an import, as mypy's own plugins give it


class TaskPlugin(Plugin):
    def get_additional_deps(self, file: MypyFile) -> list[tuple[int, str, int]]:
        """Let mypy read DjangoTask, which nobody imports."""
        return [(PRIORITY, DJANGO_MODULE, -1)] if file.fullname == "celery.app" else []

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return self.as_django_task if fullname in MAKERS else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return self.as_django_task if fullname in MAKERS else None

    def get_method_signature_hook(
        self, fullname: str
    ) -> Callable[[MethodSigContext], FunctionLike] | None:
        return with_any_sequence if fullname in CALLS else None

    def as_django_task(self, context: FunctionContext | MethodContext) -> Type:
        """The same as the decorator returns, with DjangoTask where it says Task."""
        returned = get_proper_type(context.default_return_type)
        if not isinstance(returned, CallableType):
            return self.replaced(returned)
        made = self.replaced(get_proper_type(returned.ret_type))
        return returned.copy_modified(ret_type=made)  # @shared_task(...) returns a decorator

    def replaced(self, task: Type) -> Type:
        symbol = self.lookup_fully_qualified(DJANGO_TASK)
        if not isinstance(task, Instance) or task.type.fullname != TASK or symbol is None:
            return task  # of a class of its own
        return Instance(symbol.node, task.args) if isinstance(symbol.node, TypeInfo) else task


def with_any_sequence(context: MethodSigContext) -> FunctionLike:
    """The same signature, whose ``args`` may be a list."""
    signature = context.default_signature
    types = list(signature.arg_types)
    anything = AnyType(TypeOfAny.explicit)
    sequence = context.api.named_generic_type("typing.Sequence", [anything])
    types[signature.arg_names.index("args")] = UnionType([sequence, NoneType()])
    return signature.copy_modified(arg_types=types)


def plugin(version: str) -> type[Plugin]:
    """What mypy calls to get the plugin."""
    return TaskPlugin
