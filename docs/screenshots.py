"""Take the README's screenshots of the operator's view, light and dark.

They show a newly generated service with a day of runs, while a beat and a worker run. The window
is 1280 pixels wide with Django's sidebar open, as an operator finds it.

uv run python -m docs.screenshots
"""

import os
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.harness.processes import free_port
from tests.harness.service import install

DOCS = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = install(Path(folder))
        python, port = str(service.venv / "bin/python"), free_port()
        env = service.environment(
            DJANGO_SETTINGS_MODULE="architecture_portal.settings",
            PYTHONPATH=f"{service.path}{os.pathsep}{service.engine}",
        )
        (service.path / "application/schedules.py").write_text((DOCS / "example.py").read_text())
        for command in (["manage.py", "migrate", "-v", "0"], [str(DOCS / "fill.py")]):
            subprocess.run([python, *command], cwd=service.path, env=env, check=True)
        commands = (
            ["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
            ["-m", "celery", "-A", "architecture_portal", "worker", "--concurrency=2"],
            ["-m", "celery", "-A", "architecture_portal", "beat"],
        )
        processes = [
            subprocess.Popen([python, *command], cwd=service.path, env=env) for command in commands
        ]
        try:
            take(f"http://127.0.0.1:{port}/admin/")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def take(admin: str) -> None:
    """Take the pictures once the admin at a URL answers, beat ticks and no run waits."""
    while True:
        with suppress(OSError), urllib.request.urlopen(admin):
            break
        time.sleep(0.2)
    schedules = f"{admin}django_celery_beat/periodictask/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(admin)
        page.fill("#id_username", "ada")
        page.fill("#id_password", "ada")
        page.click("[type=submit]")
        page.goto(schedules)
        while "Beat ticks" not in (text := page.inner_text("body")) or "No worker" in text:
            page.wait_for_timeout(500)
            page.reload()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(schedules)
            page.screenshot(path=DOCS / f"list-{scheme}.png")
            page.get_by_role("link", name="Import exchange rates").click()
            page.wait_for_selector("#preview h2")
            page.screenshot(path=DOCS / f"page-{scheme}.png")
            page.goto(f"{schedules}timeline/")
            page.screenshot(path=DOCS / f"timeline-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
