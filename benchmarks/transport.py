"""What it costs to take messages from Redis so that no kill loses one, next to kombu's transport.

uv run python -m benchmarks.transport
"""

import json
import tempfile
from pathlib import Path

from benchmarks import INSIDE
from tests.harness.service import install, run
from tests.harness.services import RedisServer


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = install(Path(folder))
        redis = RedisServer(Path(folder) / "redis")
        redis.start()
        try:
            url = f"{redis.url}/0"
            found = json.loads(run(service, INSIDE / "transport.py", url))
        finally:
            redis.stop()
    print("| | messages a second | hand to hand | lost by 30 kills |")
    print("|---|---|---|---|")
    for name, figures in found.items():
        a_second, seconds, lost = figures.values()
        print(f"| {name} | {a_second:,.0f} | {seconds * 1000:.1f} ms | {lost} |")


if __name__ == "__main__":
    main()
