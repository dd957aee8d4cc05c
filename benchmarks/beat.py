"""Beat at 10,000 and 100,000 schedules, next to stock beat and to a plain send_task loop.

uv run python -m benchmarks.beat [ours|stock|burst] [10000|100000]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

from benchmarks import INSIDE
from tests.harness.faults import OURS, STOCK, Arena, arena
from tests.harness.service import install
from tests.harness.services import listens

SECONDS = 60


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def peak_memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def inside(made: Arena, *arguments: str) -> dict[str, float]:
    """What benchmarks/inside/beat.py prints in the service."""
    made.env |= {
        "PYTHONPATH": f"{made.project.path}{os.pathsep}{made.project.engine}",
        "DJANGO_SETTINGS_MODULE": "architecture_portal.settings",
    }
    return dict(json.loads(made.python(str(INSIDE / "beat.py"), *arguments)))


def live(made: Arena, count: int, crontabs: int) -> dict[str, float]:
    """A beat process for a minute: how late the runs come that fall due in it."""
    due = inside(made, "fill", str(count), str(crontabs), "busy")
    beat = made.start_beat()
    made.wait_for_message()
    time.sleep(10)  # what fell due while it loaded
    start, used = time.time(), cpu(beat.pid)
    time.sleep(SECONDS)
    end, used = time.time(), cpu(beat.pid) - used
    time.sleep(1)
    arrived = {message.name: message.arrived for message in made.messages}
    expected = {name: moment for name, moment in due.items() if start < moment < end}
    late = [1000 * (arrived.get(name, end) - moment) for name, moment in expected.items()]
    percentiles = quantiles(late, n=100)
    figures = {
        "runs due/s": len(expected) / SECONDS,
        "lateness p50, ms": percentiles[49],
        "lateness p95, ms": percentiles[94],
        "lateness p99, ms": percentiles[98],
        "overdue after 60 s": sum(due[name] < end and name not in arrived for name in due),
        "CPU, %": 100 * used / SECONDS,
        "peak memory, MB": peak_memory(beat.pid),
    }
    beat.terminate()
    beat.wait()
    return figures


def idle(made: Arena, count: int, crontabs: int) -> dict[str, float]:
    inside(made, "fill", str(count), str(crontabs), "idle")
    beat = made.start_beat()
    time.sleep(45)  # until it has loaded
    used = cpu(beat.pid)
    time.sleep(20)
    figures = {"CPU idle, %": 100 * (cpu(beat.pid) - used) / 20}
    beat.terminate()
    beat.wait()
    return figures


def figures(made: Arena, scheduler: str, count: int) -> Iterator[tuple[str, float]]:
    is_ours = scheduler == OURS
    crontabs = 4_500 if count == 100_000 else 1_000
    yield from live(made, count, crontabs).items()
    if is_ours or count < 100_000:  # there stock beat is never idle
        yield from idle(made, count, crontabs).items()
    yield from inside(made, "measure", scheduler, "1000" if is_ours else "10").items()
    if is_ours and count < 100_000:  # stock beat takes minutes, or Postgres never answers
        inside(made, "fill", "20000", "10000", "idle")
        for what, figure in inside(made, "crontabs").items():
            yield f"10,000 crontabs: {what}", figure
    if count == 100_000:
        yield from on_sqlite(made, scheduler, count)


def on_sqlite(made: Arena, scheduler: str, count: int) -> Iterator[tuple[str, float]]:
    made.env["DATABASE_URL"] = f"sqlite:///{made.project.path}/{count}.sqlite3"
    made.manage("migrate", "-v", "0")
    inside(made, "fill", str(count), "4500", "busy")
    try:
        found = inside(made, "measure", scheduler, "1000")
    except subprocess.CalledProcessError:
        found = {}
    yield "SQLite: starts", float(bool(found))
    for what in ("load, s", "dispatches/s in a burst", "of a plain send_task loop"):
        if found:
            yield f"SQLite: {what}", found[what]


def bursts(made: Arena, count: int) -> Iterator[tuple[str, float]]:
    """What a run costs that is due with others, next to a plain loop, on Redis and on RabbitMQ."""
    rabbitmq = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
    brokers = {"Redis": made.env["CELERY_BROKER_URL"]}
    if listens(rabbitmq):
        brokers["RabbitMQ"] = rabbitmq
    for broker, url in brokers.items():
        made.env["CELERY_BROKER_URL"] = url
        for level in ("INFO", "WARNING"):  # beat logs each run at INFO; the loop logs nothing
            for what, figure in inside(made, "burst", str(count), level).items():
                yield f"{broker}, {level}: {what}", figure


def main() -> None:
    names = ("stock", "ours", "burst")
    which = [name for name in names if name in sys.argv] or names
    counts = [n for n in (10_000, 100_000) if str(n) in sys.argv] or [10_000, 100_000]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = install(folder / "service")
        print("| Schedules | Beat | Figure | |\n|---|---|---|---|", flush=True)
        for count in counts:
            for beat in which:
                scheduler = STOCK if beat == "stock" else OURS
                here = folder / f"{beat}-{count}"
                here.mkdir()
                with arena(service, here, scheduler) as made:
                    if beat == "burst":
                        made.end_sink()
                        measured = bursts(made, count)
                    else:
                        measured = figures(made, scheduler, count)
                    for what, figure in measured:
                        print(f"| {count:,} | {beat} | {what} | {figure:,.3g} |", flush=True)


if __name__ == "__main__":
    main()
