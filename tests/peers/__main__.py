"""What others wrote, as a net: their suites on what the engine puts in place of theirs.

uv run python -m tests.peers [suite …]

Each suite comes from its source distribution and runs twice: as it is, and with the engine. A test
that passes only without the engine is in ``differences.toml`` with its reason, or is a defect.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.harness.project import ENGINE, OUTPUT, clean_environment
from tests.harness.services import RedisServer

HERE = Path(__file__).parent
TOOLS = (
    *("pytest<9", "pytest-django<5", "pytest-rerunfailures", "pytest-subtests", "pytest-timeout"),
    "pydantic",
)
WITHOUT_OURS = ("-p", "no:cacheprovider", "-p", "no:scheduling.testing", "--timeout=300")
SECONDS = 1800  # for one run of a suite


@dataclass
class Suite:
    distribution: str
    package: str  # its folder in the source distribution: the installed one is tested
    arguments: tuple[str, ...]
    ours: tuple[str, ...]  # pytest's options that put the engine in
    env: dict[str, str] = field(default_factory=dict)


def suites(redis: RedisServer) -> dict[str, Suite]:
    url = f"{redis.url}/0"
    celery_env = {"TEST_BROKER": url, "TEST_BACKEND": url, "REDIS_PORT": str(redis.port)}
    return {
        "beat": Suite(
            "django-celery-beat",
            "django_celery_beat",
            ("t/unit/test_schedulers.py", "t/unit/test_models.py"),
            ("-p", "with_scheduler", "--ds=with_scheduler"),
        ),
        **{
            name: Suite(
                "celery",
                "celery",
                ("-p", "celery.contrib.pytest", f"t/integration/test_{name}.py"),
                ("-p", "with_settings"),
                celery_env,
            )
            for name in ("tasks", "canvas")
        },
    }


class Unreachable(Exception):
    """The package index did not give what is needed."""


def fetch(*command: str) -> str:
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    if done.returncode:
        raise Unreachable(done.stderr.strip()[-1000:])
    return done.stdout


def unpack(suite: Suite, python: str, folder: Path) -> Path:
    """The suite of the version that is installed, without its package."""
    code = f"from importlib.metadata import version; print(version({suite.distribution!r}))"
    version = fetch(python, "-c", code).strip()
    wanted = f"{suite.distribution}=={version}"
    source = ("--no-deps", "--no-binary", ":all:", "--dest", str(folder))
    fetch("uv", "tool", "run", "pip", "download", "--quiet", *source, wanted)
    (archive,) = folder.glob("*.tar.gz")
    fetch("tar", "-xzf", str(archive), "-C", str(folder))
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    (unpacked / suite.package).rename(folder / "installed-instead")
    return unpacked


def run(suite: Suite, python: str, folder: Path, ours: bool) -> dict[str, str]:
    """Why each test failed, by its name; "" if it passed. What was skipped is left out."""
    report = folder.parent / f"{'ours' if ours else 'baseline'}.xml"
    added = [*suite.ours] if ours else []
    subprocess.run(
        [python, "-m", "pytest", "-q", *WITHOUT_OURS, *added, *suite.arguments]
        + [f"--junitxml={report}"],
        cwd=folder,
        env=clean_environment() | suite.env | {"PYTHONPATH": f"{folder}{os.pathsep}{HERE}/inside"},
        timeout=SECONDS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # one with subtests comes several times
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        if case.find("skipped") is None:
            bad = [*case.iter("failure"), *case.iter("error")]
            why = bad[0].get("message", "").partition("\n")[0] or "?" if bad else ""
            found[name] = found.get(name) or why
    return found


def differs(name: str, suite: Suite, python: str, folder: Path) -> bool:
    """Run a suite and say how it went; whether anything differs that is not in the list."""
    unpacked = unpack(suite, python, folder)
    baseline, ours = (run(suite, python, unpacked, ours) for ours in (False, True))
    lost = {test for test, why in baseline.items() if not why and ours.get(test, "it did not run")}
    listed: dict[str, str] = {
        test: reason
        for reason, tests in tomllib.loads((HERE / "differences.toml").read_text())[name].items()
        for test in tests
    }
    counts = [
        f"{sum(not why for why in found.values())} of {len(found)}" for found in (ours, baseline)
    ]
    print(f"{name}: {counts[0]} with the engine, {counts[1]} without; {len(lost)} differ")
    for test in sorted(set(listed) & set(ours) - lost):
        print(f"  listed, but does not differ here: {test}")
    for test in sorted(lost - set(listed)):
        print(f"  not in differences.toml: {test}: {ours.get(test, 'it did not run')}")
    return not baseline or bool(lost - set(listed))


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = str(folder / "venv/bin/python")
        redis = RedisServer(folder / "redis")
        redis.start()
        try:
            fetch("uv", "venv", "--quiet", str(folder / "venv"))
            engine = f"{OUTPUT / ENGINE}[solar]"
            fetch("uv", "pip", "install", "--quiet", "--python", python, engine, *TOOLS)
            found = []
            for name, suite in suites(redis).items():
                if not names or name in names:
                    (folder / name).mkdir()
                    found.append(differs(name, suite, python, folder / name))
        except Unreachable as error:
            print(f"Skipped: the package index did not give what is needed: {error}")
            return int("REQUIRE_SERVICES" in os.environ)
        finally:
            redis.stop()
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
