"""What the hook writes down of names that a slug may not have."""

import re
from collections.abc import Iterable

from tests.harness.project import TEMPLATE

HOOK = (TEMPLATE / "hooks/pre_gen_project.py").read_text()


def listed(name: str) -> list[str]:
    """The words of a set in the hook."""
    return HOOK.partition(f'{name} = set(\n    """')[2].partition('"""')[0].split()


def possible_slugs(names: Iterable[str]) -> set[str]:
    """Those names that the hook accepts unless they are listed."""
    return {name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name)}
