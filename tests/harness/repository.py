"""Git repositories: services that a team works on, and this template as it stands."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.harness.project import OUTPUT, TEMPLATE

CRUFT = (sys.executable, "-m", "cruft")
GENERATES = ("cookiecutter.json", "hooks", OUTPUT.name)  # what generating reads
TAGS = subprocess.run(
    ["git", "tag"], cwd=TEMPLATE, capture_output=True, text=True, check=False
).stdout.split()


@dataclass
class Repository:
    path: Path

    def git(self, *arguments: str, check: bool = True) -> str:
        return self.run("git", *arguments, check=check).stdout

    def cruft(self, *arguments: str) -> str:
        """What cruft prints; its failure fails the test."""
        done = self.run(*CRUFT, *arguments)
        return done.stdout + done.stderr

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        identity = {
            f"GIT_{who}_{what}": "test@example.com"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        done = subprocess.run(
            command,
            cwd=self.path,
            env=os.environ
            | identity
            | {"GIT_CONFIG_GLOBAL": os.devnull, "COOKIECUTTER_CONFIG": os.devnull},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
        self.write(name, text.replace(old, new))


def working_tree(folder: Path) -> Repository:
    """A repository with the template's tags, and its working tree as the last commit."""
    template = Repository(folder)
    folder.mkdir()
    template.git("init", "--quiet", "--initial-branch=main")
    if TAGS:
        template.git(
            "fetch", "--quiet", "--update-shallow", str(TEMPLATE), "refs/tags/*:refs/tags/*"
        )
    for name in GENERATES:
        source, copy = TEMPLATE / name, template.path / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(source, copy)
    template.commit("Today")
    return template
