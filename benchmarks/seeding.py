"""Seeding next to the document's loop and an update_or_create loop, on SQLite and Postgres.

uv run python -m benchmarks.seeding
"""

import json
import tempfile
from pathlib import Path

from benchmarks import INSIDE
from tests.harness.service import install, run
from tests.harness.services import new_database

LOOPED = 1_000  # schedules for the loops, which take minutes for 10,000
MANY = 10_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, new_database() as url:
        service = install(Path(folder))
        print("| Database | Schedules | Way | Queries | Seconds | Times `seed` | Beats reload |")
        print("|---|---|---|---|---|---|---|")
        for name, env in {"SQLite": {}, "Postgres": {"DATABASE_URL": url}}.items():
            for count, loops in ((LOOPED, ["loops"]), (MANY, [])):
                figures = json.loads(run(service, INSIDE / "seeding.py", str(count), *loops, **env))
                for way, (queries, seconds, reloads) in figures.items():
                    ours = figures["seed, " + way.rpartition(", ")[2]][1]
                    print(
                        f"| {name} | {count:,} | {way} | {queries:,} | {seconds:.2f} "
                        f"| {seconds / ours:.0f} | {'yes' if reloads else 'no'} |"
                    )


if __name__ == "__main__":
    main()
