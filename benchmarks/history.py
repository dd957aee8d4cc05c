"""What the ledger costs a worker, next to django-celery-results' backend, and what the
queries of pages and monitors take with 100,000 runs stored.

uv run python -m benchmarks.history
"""

import json
import tempfile
from pathlib import Path

from benchmarks import INSIDE
from tests.harness.service import install, run
from tests.harness.services import RedisServer, new_database


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, new_database() as url:
        service = install(Path(folder))
        redis = RedisServer(Path(folder) / "redis")
        redis.start()
        broker = {"CELERY_BROKER_URL": f"{redis.url}/0"}
        broker["SEED_SCHEDULES_ON_MIGRATE"] = "false"
        try:
            databases = {"SQLite": {}, "Postgres": {"DATABASE_URL": url}}
            figures = {
                name: json.loads(run(service, INSIDE / "history.py", **broker, **env))
                for name, env in databases.items()
            }
        finally:
            redis.stop()
    print("| A worker's tasks a second, two processes | nothing kept | ledger | django-db |")
    print("|---|---|---|---|")
    for name, found in figures.items():
        for task, ways in found["throughput"].items():
            bare = ways["nothing"]
            kept = [f"{figure:,.0f}, {figure / bare:.0%}" for figure in list(ways.values())[1:]]
            print(f"| {task}, {name} | {bare:,.0f} | {' | '.join(kept)} |")
    print("\n| 100,000 runs stored | Queries | SQLite, s | Postgres, s |")
    print("|---|---|---|---|")
    for what, (_, count) in figures["Postgres"]["queries"].items():
        seconds = [f"{found['queries'][what][0]:.3f}" for found in figures.values()]
        print(f"| {what} | {count} | {' | '.join(seconds)} |")


if __name__ == "__main__":
    main()
