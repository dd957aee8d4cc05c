"""Takes the screenshots of the operator's view that the README shows, light and dark.

A service is generated, installed and filled with a day of runs, and a beat ticks in it.
"""

import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "benchmarks"))

from service import clean_environment, free_port, install  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = install(Path(folder))
        python, port = str(service / ".venv/bin/python"), free_port()
        env = clean_environment() | {
            "DEBUG": "true",
            "DJANGO_SETTINGS_MODULE": "architecture_portal.settings",
            "PYTHONPATH": str(service),
        }
        (service / "application/schedules.py").write_text((DOCS / "example.py").read_text())
        for command in (["manage.py", "migrate", "-v", "0"], [str(DOCS / "fill.py")]):
            subprocess.run([python, *command], cwd=service, env=env, check=True)
        commands = (
            ["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
            ["-m", "celery", "-A", "architecture_portal", "worker", "--concurrency=2"],
            ["-m", "celery", "-A", "architecture_portal", "beat"],
        )
        processes = [
            subprocess.Popen([python, *command], cwd=service, env=env) for command in commands
        ]
        try:
            take(f"http://127.0.0.1:{port}/admin/")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def take(admin: str) -> None:
    while True:
        with suppress(OSError), urllib.request.urlopen(admin):
            break
        time.sleep(0.2)
    schedules = f"{admin}django_celery_beat/periodictask/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1480, "height": 860})
        page.goto(admin)
        page.fill("#id_username", "ada")
        page.fill("#id_password", "ada")
        page.click("[type=submit]")
        page.goto(schedules)
        while "Beat ticks" not in (text := page.inner_text("body")) or "No worker" in text:
            page.wait_for_timeout(500)
            page.reload()
        page.click("#toggle-nav-sidebar")
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


main()
