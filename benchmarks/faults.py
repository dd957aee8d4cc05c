"""Each fault of stock beat next to this template's beat, in one run.

uv run python benchmarks/faults.py [part of a scenario's name ...]
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import arena
from service import install, run

SCENARIOS: dict[str, Callable[[arena.Arena], dict[str, float]]] = {
    "rows saved 5 times a second": arena.rows_saved_all_the_time,
    "2 beats, one killed -9 every 10 s": partial(arena.beats_killed_in_turn, count=2),
    "5 beats, one killed -9 every 10 s": partial(arena.beats_killed_in_turn, count=5),
    "killed -9 after a dispatch": arena.killed_after_a_dispatch,
    "ended by SIGTERM in a burst": arena.sigterm_in_a_burst,
    "Redis away": arena.redis_away,
    "Postgres away": arena.postgres_away,
    "Postgres away when five minutes are over": partial(arena.postgres_away, age=285),
}


def nightly(service: Path) -> None:
    """A daily 03:00, due on the 2nd, and a beat that is back so many hours later."""
    for hours in ("0.34", "6.5"):
        for beat, scheduler in (("stock", arena.STOCK), ("ours", arena.OURS)):
            sent = run(service, "nightly.py", scheduler, hours).strip()
            print(f"| 03:00 missed, beat back after {hours} h | {beat} | sent {sent} |", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or [""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = install(folder / "service")
        print("| Scenario | Beat | Counted |\n|---|---|---|", flush=True)
        if any(part in "nightly" for part in wanted):
            nightly(service)
        for number, (scenario, play) in enumerate(SCENARIOS.items()):
            if not any(part in scenario for part in wanted):
                continue
            for beat, scheduler in (("stock", arena.STOCK), ("ours", arena.OURS)):
                here = folder / f"{number}-{beat}"
                here.mkdir()
                with arena.arena(service, service / ".venv", here, scheduler) as made:
                    counted = ", ".join(f"{what}: {n:g}" for what, n in play(made).items())
                print(f"| {scenario} | {beat} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
