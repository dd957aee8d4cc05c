"""Beat at 1,000,000 schedules on Postgres, next to stock beat where that loads them.

make benchmark-beat, or: uv run python -m benchmarks.million [ours|stock]
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg

from benchmarks import INSIDE
from tests.harness.faults import OURS, STOCK, Arena, arena
from tests.harness.processes import wait_for
from tests.harness.service import install

COUNT, BURST = 1_000_000, 60_000
SECONDS = 60  # of edits, and of idling
LOADS_WITHIN = 600  # seconds, or it does not survive


def inside(made: Arena, *arguments: str) -> str:
    """What benchmarks/inside/million.py prints last in the service."""
    made.env["PYTHONPATH"] = f"{made.project.path}:{made.project.engine}"
    made.env["DJANGO_SETTINGS_MODULE"] = f"{made.project.slug}.settings"
    lines = subprocess.run(
        [made.project.venv / "bin/python", str(INSIDE / "million.py"), *arguments],
        cwd=made.project.path,
        env=made.env,
        check=True,
        stdout=subprocess.PIPE,
        stderr=made.log,
        text=True,
        timeout=LOADS_WITHIN + 2 * SECONDS if arguments[0] == "measure" else None,
    ).stdout.splitlines()
    return lines[-1] if lines else ""


def burst(made: Arena) -> Iterator[tuple[str, float]]:
    """60,000 are due within one second, for two beats, one of which is killed in the middle."""
    beats = [made.start_beat(), made.start_beat()]
    with psycopg.connect(made.env["DATABASE_URL"], autocommit=True) as connection:

        def both_tick() -> bool:
            query = "SELECT count(*) FROM scheduling_node WHERE seen_at > now() - interval '9 s'"
            row = connection.execute(query).fetchone()
            return bool(row and row[0] == 2)

        wait_for(both_tick, "two beats", 2 * LOADS_WITHIN)
    due = float(inside(made, "due"))
    time.sleep(max(0, due - time.time()))
    made.wait_for_message(BURST // 2)
    beats[0].send_signal(signal.SIGKILL)
    with suppress(AssertionError):
        wait_for(lambda: len(made.messages) >= BURST, "all of the burst", 300)
    time.sleep(5)
    arrived = Counter(message.name for message in made.messages)
    moments = sorted(message.arrived for message in made.messages)
    yield f"sent of {BURST:,} due in one second", len(arrived)
    yield "doubled, a beat killed in the middle", sum(arrived.values()) - len(arrived)
    half = BURST // 2
    yield "messages/s until the kill, two beats", half / (moments[half - 1] - due)
    rest = moments[half:]
    yield "messages/s from the kill on, one beat", len(rest) / (rest[-1] - rest[0])


def figures(made: Arena, scheduler: str) -> Iterator[tuple[str, float]]:
    # No worker begins the runs, and beat sends again what vanishes from the queue unbegun.
    made.env["LATE_AFTER"] = "3600"
    inside(made, "fill", str(COUNT))
    try:
        edited = ["edits"] if scheduler == OURS else []
        yield from json.loads(inside(made, "measure", scheduler, str(SECONDS), *edited)).items()
    except (subprocess.SubprocessError, ValueError):
        yield f"loads within {LOADS_WITHIN} s", 0
        return
    if scheduler == OURS:
        yield from json.loads(inside(made, "measure", scheduler, str(SECONDS))).items()
        yield from burst(made)


def main() -> None:
    which = [name for name in ("ours", "stock") if name in sys.argv] or ["stock", "ours"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = install(folder / "service")
        print("| Schedules | Beat | Figure | |\n|---|---|---|---|", flush=True)
        for beat in which:
            scheduler = OURS if beat == "ours" else STOCK
            (folder / beat).mkdir()
            with arena(service, folder / beat, scheduler) as made:
                for what, figure in figures(made, scheduler):
                    print(f"| {COUNT:,} | {beat} | {what} | {figure:,.3g} |", flush=True)


if __name__ == "__main__":
    main()
