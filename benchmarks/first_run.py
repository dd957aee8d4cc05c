"""Time to generate a service and to its first scheduled task, and the size of the template.

make benchmark, or: uv run python benchmarks/first_run.py
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

TEMPLATE = Path(__file__).resolve().parent.parent
OUTPUT = TEMPLATE / "{{cookiecutter.project_slug}}"
RUNS = 5
LONGEST_WAIT = 300  # seconds for the first task; then the service is stopped and the run fails
LONGEST_STOP = 90  # the runner gives running tasks 60


def clean_environment() -> dict[str, str]:
    """A terminal's environment: without what `uv run`, Django or a .env add to it."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "MAKEFLAGS", "MFLAGS", "PORT")
    services = ("DJANGO_", "CELERY_", "EMAIL_", "SECURE_", "CSRF_", "MAKE_")
    single = ("DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "CACHE_URL", "LOG_LEVEL")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(services) and name not in (*ours, *single)
    }
    folders = kept["PATH"].split(os.pathsep)
    return kept | {"PATH": os.pathsep.join(f for f in folders if f != f"{sys.prefix}/bin")}


def generate(template: Path, folder: Path, env: dict[str, str]) -> float:
    """Seconds that Cookiecutter takes to generate into a folder."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder), str(template)],
        env=env,
        check=True,
    )
    return time.perf_counter() - start


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def first_task(tmp: Path) -> float:
    """Seconds from `cookiecutter` until a worker has done a scheduled task."""
    env = clean_environment()
    generate(TEMPLATE, tmp / "cache", env)  # an environment of its own, to fill the package cache
    subprocess.run(["make", "install"], cwd=tmp / "cache/architecture_portal", env=env, check=True)

    start = time.perf_counter()
    generate(TEMPLATE, tmp / "first", env)
    project = tmp / "first/architecture_portal"
    schedules = project / "application/schedules.py"
    declared = schedules.read_text()
    assert "minutes=10" in declared
    schedules.write_text(declared.replace("minutes=10", "seconds=1"))
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
        seconds = first_task(tmp)

    scheduling = [f for f in (OUTPUT / "scheduling").rglob("*.py") if "tests" not in f.parts]
    tags = sum(f.read_bytes().count(b"{{") for f in OUTPUT.rglob("*") if f.is_file())
    figures = {
        f"Generation, PATH empty, median of {RUNS}": f"{ours:.2f} s",
        "The same for an empty template": f"{empty:.2f} s",
        "The cost that is ours": f"{ours - empty:.2f} s ({ours / empty:.2f} times the empty one)",
        "From `cookiecutter` to the first scheduled task, package cache warm": f"{seconds:.1f} s",
        "Commands for it: cookiecutter, make dev": "2",
        "Lines of hooks/pre_gen_project.py": lines_of([TEMPLATE / "hooks/pre_gen_project.py"]),
        "Lines of scheduling/ without tests": lines_of(scheduling),
        "Lines of settings.py": lines_of([OUTPUT / OUTPUT.name / "settings.py"]),
        "Jinja tags in the template's output files": tags,
        "Generated files": len(generated),
    }
    print("| What | Figure |\n|---|---|")
    for what, figure in figures.items():
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
