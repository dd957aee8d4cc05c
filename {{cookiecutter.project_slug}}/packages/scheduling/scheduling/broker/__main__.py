"""python -m scheduling.broker DIRECTORY BINARY: the watcher of an embedded broker."""

import sys
from pathlib import Path

from scheduling.broker.server import watch

watch(Path(sys.argv[1]), sys.argv[2])
