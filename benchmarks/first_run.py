"""Time to generate a service and to its first scheduled task, and the size of the template.

make benchmark, or: uv run python -m benchmarks.first_run
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from tests.harness.processes import free_port
from tests.harness.project import ENGINE, OUTPUT, TEMPLATE, clean_environment
from tests.harness.service import generate, install

RUNS = 5
LONGEST_WAIT = 300  # seconds for the first task; then the service is stopped and the run fails
LONGEST_STOP = 90  # the runner gives running tasks 60


def generation(tmp: Path) -> tuple[float, float]:
    """Median seconds of this template and of an empty one, in turns, with an empty PATH."""
    empty = tmp / "empty"
    (empty / OUTPUT.name).mkdir(parents=True)
    (empty / "cookiecutter.json").write_text(json.dumps({"project_slug": "empty_service"}))
    (empty / OUTPUT.name / "README.md").write_text("Nothing.\n")
    env = {"PATH": "", "HOME": str(tmp)}
    for template in (TEMPLATE, empty):
        generate(template, tmp / "warm-up", env)
    seconds = [
        (generate(TEMPLATE, tmp / f"{run}", env), generate(empty, tmp / f"{run}", env))
        for run in range(RUNS)
    ]
    ours, theirs = zip(*seconds, strict=True)
    return median(ours), median(theirs)


def first_task(tmp: Path) -> float:
    """Seconds from `cookiecutter` until a worker has done the sample schedule's task."""
    env = clean_environment()
    install(tmp / "cache")  # an environment of its own, to fill the package cache

    start = time.perf_counter()
    generate(TEMPLATE, tmp / "first", env)
    project = tmp / "first/architecture_portal"
    dev = subprocess.Popen(
        ["make", "dev", f"PORT={free_port()}"],
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    too_late = threading.Timer(LONGEST_WAIT, os.killpg, (dev.pid, signal.SIGINT))
    too_late.start()
    lines: list[str] = []
    try:
        assert dev.stdout
        for line in dev.stdout:
            lines.append(line)
            if "Task application.tasks.send_email_task[" in line and "succeeded" in line:
                return time.perf_counter() - start
        sys.exit(f"No scheduled task was done:\n{''.join(lines)}")
    finally:
        too_late.cancel()
        stop(dev)


def stop(dev: "subprocess.Popen[str]") -> None:
    """As Ctrl-C does, and wait; the runner ends what it has started."""
    if dev.poll() is None:
        os.killpg(dev.pid, signal.SIGINT)
    try:
        dev.communicate(timeout=LONGEST_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(dev.pid, signal.SIGKILL)
        raise


def lines_of(files: Iterable[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        ours, empty = generation(tmp)
        generated = [f for f in (tmp / "0/architecture_portal").rglob("*") if f.is_file()]
        own = [f for f in generated if ENGINE not in str(f)]
        lines = lines_of(own)
        seconds = first_task(tmp)

    engine = (OUTPUT / ENGINE / "scheduling").rglob("*.py")
    figures = {
        f"Generation, PATH empty, median of {RUNS}": f"{ours:.2f} s",
        "The same for an empty template": f"{empty:.2f} s",
        "The cost that is ours": f"{ours - empty:.2f} s ({ours / empty:.2f} times the empty one)",
        "From `cookiecutter` to the first scheduled task, package cache warm": f"{seconds:.1f} s",
        "Commands for it: cookiecutter, make dev": "2",
        "Lines of hooks/pre_gen_project.py": lines_of([TEMPLATE / "hooks/pre_gen_project.py"]),
        "Lines of the engine without tests": lines_of(engine),
        "Lines of settings.py": lines_of([OUTPUT / OUTPUT.name / "settings.py"]),
        "Generated files": len(generated),
        "Generated files and lines without the engine": f"{len(own)}, {lines}",
    }
    print("| What | Figure |\n|---|---|")
    for what, figure in figures.items():
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
