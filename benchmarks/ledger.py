"""What pages and monitors take with 100,000 schedules and 5,000,000 runs stored on Postgres, while
the oldest runs are deleted.

make benchmark-ledger, or: uv run python -m benchmarks.ledger [SCHEDULES RUNS]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import INSIDE
from tests.harness.service import install, run
from tests.harness.services import new_database

SCRIPT = INSIDE / "ledger.py"


def main() -> None:
    schedules, runs = sys.argv[1:] or ("100000", "5000000")
    with tempfile.TemporaryDirectory() as folder, new_database() as url:
        service = install(Path(folder))
        env = {"DATABASE_URL": url, "SEED_SCHEDULES_ON_MIGRATE": "false"}
        run(service, SCRIPT, "fill", schedules, runs, **env)
        found = {"at rest": json.loads(run(service, SCRIPT, "measure", **env).splitlines()[-1])}
        cleaning = subprocess.Popen(
            [service.venv / "bin/python", str(SCRIPT), "clean"],
            cwd=service.path,
            env=service.environment(**env),
            stdout=subprocess.DEVNULL,
        )
        try:
            measured = run(service, SCRIPT, "measure", **env).splitlines()[-1]
            found["while runs are deleted"] = json.loads(measured)
            print(f"Runs are still being deleted: {cleaning.poll() is None}\n")
        finally:
            cleaning.kill()
            cleaning.wait()
    print(f"| {int(schedules):,} schedules, {int(runs):,} runs | Queries | {' | '.join(found)} |")
    print("|---|---|---|---|")
    for what, (queries, *_) in found["at rest"].items():
        seconds = [
            f"{wall:.2f} s (CPU of the web {used:.2f} s, longest query {longest:.2f} s)"
            for _, wall, used, longest in (figures[what] for figures in found.values())
        ]
        print(f"| {what} | {queries:g} | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
