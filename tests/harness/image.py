"""What a Dockerfile does, done in a folder: the same commands, without an engine."""

import json
import os
import re
import shlex
import shutil
import string
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path


@dataclass
class Image:
    """A file system and its settings. ``files`` is what the container has as /srv."""

    files: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": os.defpath})
    command: list[str] = field(default_factory=list)
    user: str = "root"
    stop_signal: str = "SIGTERM"

    def here(self, text: str) -> str:
        """Text with the container's /srv as it is called here."""
        return re.sub(r"(?<![\w./])/srv\b", str(self.files), text)


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Name and arguments of each, comments dropped, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.lstrip()[:1] != "#"]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.strip().partition(" ")
            yield name, arguments.strip()


def sent_files(project: Path) -> Iterator[Path]:
    """What Docker is sent: all but what .dockerignore names, by names or **/names."""
    lines = (project / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"(\*\*/)?[^/]+", pattern) for pattern in patterns)
    for file in project.rglob("*"):
        parts = file.relative_to(project).parts
        ignored = any(
            any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
            if pattern.startswith("**/")
            else fnmatch(parts[0], pattern)
            for pattern in patterns
        )
        if not ignored and file.is_file():
            yield file


def build(project: Path, folder: Path, env: dict[str, str]) -> Image:
    """Follow the Dockerfile; ``env`` is for its RUN commands, besides what its ENV says."""
    files, stages = folder / "srv", dict[str, Path]()
    image, stage = Image(files), ""
    for name, arguments in instructions(project / "Dockerfile"):
        match name, shlex.split(arguments):
            case "FROM", [base, "AS", "uv"]:
                assert base.startswith("ghcr.io/astral-sh/uv:"), "the uv of the PATH stands in"
            case "FROM", [base, *rest]:
                assert re.fullmatch(r"python:3\.\d+-slim@sha256:\w+", base), "as all stages"
                if stage:
                    stages[stage] = files.rename(folder / stage)
                image, stage = Image(files), rest[-1] if rest else "last"
                files.mkdir(parents=True)
            case "ENV", pairs:
                for pair in pairs:
                    variable, _, value = pair.partition("=")
                    image.env[variable] = image.here(string.Template(value).substitute(image.env))
            case "WORKDIR", ["/srv"]:
                pass
            case "COPY", ["--from=uv", "/uv", _]:
                assert stage == "build"
            case "COPY", [source, "/srv", "."] if source.startswith("--from="):
                shutil.copytree(
                    stages[source.removeprefix("--from=")], files, symlinks=True, dirs_exist_ok=True
                )
            case "COPY", [".", "."]:
                for file in sent_files(project):
                    target = files / file.relative_to(project)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
            case "COPY", [*sources, "./"]:
                for source in sources:
                    shutil.copy(project / source, files)
            case "RUN", _:
                command = re.sub(r"--mount=type=cache,target=\S+", "", arguments)
                subprocess.run(
                    ["sh", "-euc", image.here(command)],
                    cwd=files,
                    env=env | image.env | {"PATH": f"{image.env['PATH']}:{env['PATH']}"},
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
            case "CMD", _:
                image.command = json.loads(arguments)
            case "USER", [user]:
                image.user = user
            case "STOPSIGNAL", [stop_signal]:
                image.stop_signal = stop_signal
            case "EXPOSE", _:
                pass
            case unknown:
                raise NotImplementedError(unknown)
    return image
