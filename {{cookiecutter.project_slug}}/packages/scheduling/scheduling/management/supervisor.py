"""Run processes together: restart them when code changes, stop all when one ends."""

import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from watchfiles import Change, PythonFilter, watch

GRACE_SECONDS = 60  # for running tasks; a second Ctrl-C does not wait
STOP_ORDER = (("beat", "web"), ("worker",))  # first the processes that send tasks
is_python = PythonFilter()

Process = subprocess.Popen[str]


class Supervisor:
    """Runs ``commands`` in ``directory``, and restarts worker and beat when code in it changes.

    The web server reloads code by itself, and restarts only when ``.env`` changes.

    ``commands`` has names in ``STOP_ORDER``. ``say(line, name)`` gets each line of their output;
    without a name, a line of the supervisor's own. ``terminal`` is the file descriptor of the
    output: the supervisor stops when it is closed.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        directory: Path,
        say: Callable[..., None],
        terminal: int,
    ) -> None:
        self.commands, self.directory, self.say = commands, directory.resolve(), say
        self.terminal = terminal
        self.processes: dict[str, Process] = {}
        self.old_workers: list[Process] = []  # finish their tasks beside the new one
        self.readers: list[threading.Thread] = []
        self.is_broken = False  # whether the code in the files does not work
        self.stopping, self.hurrying = threading.Event(), threading.Event()

    def on_signal(self, number: int, frame: Any) -> None:
        if self.stopping.is_set() and number == signal.SIGINT:
            self.hurrying.set()
        self.stopping.set()

    def run(self) -> str | None:
        """Run all until a signal. Returns the name of a process that ended by itself, if any.

        The caller calls ``stop`` afterwards, in any case.
        """
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes
        self._start(self.commands)
        hang_up = select.poll()
        hang_up.register(self.terminal, 0)  # reports only a hang-up or an error
        for changes in watch(
            self.directory,
            watch_filter=self.is_code,
            stop_event=self.stopping,
            rust_timeout=500,  # milliseconds
            yield_on_timeout=True,
        ):
            # A shell sends SIGHUP to its jobs, not to their children: `make` gets it, this may not.
            if hang_up.poll(0):
                return None
            if ended := self._ended():
                return None if self.stopping.is_set() else ended
            if changes:
                self._reload({Path(path).name for _, path in changes})
        return None

    def stop(self) -> None:
        """Stop the processes in ``STOP_ORDER``, waiting ``GRACE_SECONDS`` for each group."""
        for names in STOP_ORDER:
            group = [self.processes.pop(name) for name in names if name in self.processes]
            if "worker" in names:
                group += self.old_workers
            self._end(group)
        for reader in self.readers:
            reader.join()
        self.readers.clear()
        self.old_workers.clear()

    def is_code(self, change: Change, path: str) -> bool:
        """Whether a file is ``.env``, or Python code that is not a test."""
        file = Path(path).relative_to(self.directory)
        if file.name == ".env":
            return True
        is_test = "tests" in file.parts or file.name in ("tests.py", "conftest.py")
        return is_python(change, path) and not is_test and not file.name.startswith("test_")

    def _reload(self, names: set[str]) -> None:
        """Restart worker and beat, unless the code in the files does not work."""
        works, output = self._seed()
        if self.stopping.is_set():
            return
        for line in output if "  nothing to do" not in output else []:
            self.say(line)
        changed = f"{', '.join(sorted(names))} changed"
        parts = ["worker", "beat", "web"] if works and ".env" in names else ["worker", "beat"]
        restart = [name for name in parts if name in self.processes]
        if works:
            mended = " and the code works again" if self.is_broken else ""
            self.say(f"{changed}{mended}: restarting {', '.join(restart) or 'nothing'}")
            self._restart(restart)
        elif names == {".env"}:  # nothing has read it yet
            self.say(f"{changed}, and the service does not start with it: the error is above.")
            self.say("All run on with the old one. A new database needs manage.py migrate first.")
        else:
            self.say(f"{changed}, and the code does not work: the error is above.")
            if restart:
                self.say(f"The old code runs on in {' and '.join(restart)}.")
            if "web" in self.processes:
                self.say("web answers again when the error is mended.")
        self.is_broken = not works

    def _seed(self) -> tuple[bool, list[str]]:
        """Seed changed schedules, which imports all code. Returns whether it works, and lines."""
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            seeding = subprocess.Popen(
                [sys.executable, "manage.py", "seed_schedules"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            while seeding.poll() is None:
                if self.stopping.wait(0.05):
                    seeding.kill()
            output.seek(0)
            lines = output.read().splitlines()
        return seeding.returncode == 0, list(self._without_libraries(lines))

    def _without_libraries(self, lines: Iterable[str]) -> Iterable[str]:
        """The lines of an output; of its tracebacks, only the frames in the project's files."""
        keep = True
        for line in lines:
            if line.startswith('  File "'):
                keep = f'"{self.directory}' in line and "site-packages" not in line
            elif not line.startswith("    "):
                keep = True
            if keep:
                yield line

    def _restart(self, names: Iterable[str]) -> None:
        """Start processes anew. An old worker finishes its tasks beside the new one."""
        for name in names:
            process = self.processes.pop(name)
            if name == "worker":
                process.terminate()
                self.old_workers.append(process)
            else:
                self._end([process])
            self._start([name])

    def _start(self, names: Iterable[str]) -> None:
        for name in names:
            self.processes[name] = process = subprocess.Popen(  # noqa: S603
                self.commands[name],
                cwd=self.directory,
                env={"PYTHONBREAKPOINT": "scheduling.management.breakpoint.explain"}
                | os.environ
                | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops in order
                text=True,
                errors="replace",
            )
            reader = threading.Thread(target=self._copy_output, args=(name, process), daemon=True)
            reader.start()
            self.readers.append(reader)

    def _end(self, group: Sequence[Process]) -> None:
        """End processes, waiting ``GRACE_SECONDS`` for them unless somebody hurries."""
        for process in group:
            if process not in self.old_workers:  # they were told
                process.terminate()  # a signal to a worker's main process, not to its pool
        deadline = time.monotonic() + GRACE_SECONDS
        for process in group:
            while process.poll() is None and not self.hurrying.is_set():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            with suppress(ProcessLookupError):  # kill its remaining children too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _ended(self) -> str | None:
        self.old_workers = [worker for worker in self.old_workers if worker.poll() is None]
        for name, process in self.processes.items():
            if process.poll() is not None:
                return name
        return None

    def _copy_output(self, name: str, process: Process) -> None:
        assert process.stdout  # noqa: S101
        for line in process.stdout:
            self.say(line.rstrip("\n"), name)
