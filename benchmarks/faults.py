"""Each fault of stock beat next to this template's beat, in one run.

uv run python -m benchmarks.faults [part of a scenario's name ...]
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import INSIDE
from tests.harness import faults
from tests.harness.faults import OURS, STOCK, Arena, arena
from tests.harness.project import Project
from tests.harness.service import install, run

SCENARIOS: dict[str, Callable[[Arena], dict[str, float]]] = {
    "rows saved 5 times a second": faults.rows_saved_all_the_time,
    "2 beats, one killed -9 every 10 s": partial(faults.beats_killed_in_turn, count=2),
    "5 beats, one killed -9 every 10 s": partial(faults.beats_killed_in_turn, count=5),
    "killed -9 after a dispatch": faults.killed_after_a_dispatch,
    "ended by SIGTERM in a burst": faults.sigterm_in_a_burst,
    "Redis away": faults.redis_away,
    "Postgres away": faults.postgres_away,
    "Postgres away when five minutes are over": partial(faults.postgres_away, age=285),
}


def nightly(service: Project) -> None:
    """A daily 03:00, due on the 2nd, and a beat that is back so many hours later."""
    for hours in ("0.34", "6.5"):
        for beat, scheduler in (("stock", STOCK), ("ours", OURS)):
            sent = run(service, INSIDE / "nightly.py", scheduler, hours).strip()
            print(f"| 03:00 missed, beat back after {hours} h | {beat} | sent {sent} |", flush=True)


def kills(service: Project, folder: Path) -> None:
    """A hundred bursts, in each of which beat is killed -9."""
    with arena(service, folder, OURS) as made:
        made.end_sink()
        made.env |= {
            "PYTHONPATH": f"{service.path}{os.pathsep}{service.engine}",
            "DJANGO_SETTINGS_MODULE": f"{service.slug}.settings",
        }
        for way in ("one-by-one", "together"):
            found = json.loads(made.python(str(INSIDE / "kills.py"), "100", "2000", way))
            counted = ", ".join(f"{what}: {n:g}" for what, n in found.items())
            print(f"| killed -9 in 100 bursts | {way} | {counted} |", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or [""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = install(folder / "service")
        print("| Scenario | Beat | Counted |\n|---|---|---|", flush=True)
        if any(part in "nightly" for part in wanted):
            nightly(service)
        if any(part in "killed -9 in bursts" for part in wanted):
            (folder / "kills").mkdir()
            kills(service, folder / "kills")
        for number, (scenario, play) in enumerate(SCENARIOS.items()):
            if not any(part in scenario for part in wanted):
                continue
            for beat, scheduler in (("stock", STOCK), ("ours", OURS)):
                here = folder / f"{number}-{beat}"
                here.mkdir()
                with arena(service, here, scheduler) as made:
                    counted = ", ".join(f"{what}: {n:g}" for what, n in play(made).items())
                print(f"| {scenario} | {beat} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
