"""What breakpoint() does in a process without a terminal."""

import sys
from typing import Any


def explain(*args: Any, **kwargs: Any) -> None:
    """Print where the code would have stopped, and how to stop there; the code goes on."""
    code = sys._getframe(1)
    print(
        f"{code.f_code.co_filename}:{code.f_lineno}: breakpoint() needs a terminal. Leave this "
        "process out of dev, and run it alone: make dev WITHOUT=worker here, make worker in "
        "another terminal (or web, or beat).",
        flush=True,
    )
