"""The operator's view in a real browser, with a beat and a worker running throughout."""

import fcntl
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.harness.processes import Live, wait_for
from tests.harness.project import TEMPLATE
from tests.harness.services import unavailable

AXE = "axe-core@4.14"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-background-networking", "--no-first-run"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The text of axe-core, from npm."""
    if not shutil.which("npm"):
        unavailable("No npm on the PATH")
    folder = TEMPLATE / "build/axe"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "node_modules/axe-core/axe.min.js"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            command = ["npm", "install", "--silent", "--no-package-lock", "--prefix", str(folder)]
            subprocess.run([*command, AXE], check=True, timeout=300)
    return file.read_text()


class Operator:
    """Somebody who is logged in to the admin of a service that runs."""

    def __init__(self, live: Live, browser: Browser, **options: Any) -> None:
        self.live = live
        self.page = browser.new_page(**options)
        self.hosts: set[str] = set()
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.console: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.admin = f"http://127.0.0.1:{live.port}/admin/"
        self.list = f"{self.admin}django_celery_beat/periodictask/"
        self.page.goto(self.admin)
        self.page.fill("#id_username", "admin")
        self.page.fill("#id_password", "admin")
        self.page.click("[type=submit]")

    def refused(self) -> list[str]:
        """What the browser refused by the pages' policy."""
        return [line for line in self.console if "Content Security Policy" in line]

    def row(self, name: str) -> Locator:
        self.page.goto(self.list)
        return self.page.locator("#result_list tbody tr").filter(
            has=self.page.get_by_role("link", name=name, exact=True)
        )

    def open(self, name: str) -> None:
        link = self.row(name).get_by_role("link", name=name)
        with self.page.expect_navigation():  # what counts does not wait for the page
            link.click()

    def choose(self, name: str, action: str) -> None:
        """An action of the list for one row, which asks once."""
        self.row(name).locator("input[name=_selected_action]").check()
        self.page.select_option("select[name=action]", label=action)
        self.page.click("button[name=index]")
        self.confirm()

    def confirm(self) -> None:
        self.page.locator("#content form input[type=submit]").click()

    def says(self) -> str:
        return self.page.inner_text(".messagelist")

    def marks(self, name: str) -> int:
        return self.row(name).locator("svg.runs path.succeeded, svg.runs path.late").count()

    def tab_to(self, target: Locator) -> None:
        for _ in range(300):
            if target.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {target}")


@pytest.fixture
def live(live: Live) -> Live:
    live.start_dev()
    return live


def test_a_schedule_is_made_in_the_admin_and_steered_there(live: Live, browser: Browser) -> None:
    """The document's "Option 1", from the login to runs in the strip, and all operations."""
    operator = Operator(live, browser)
    page = operator.page
    assert "Architecture Portal" in page.inner_text("#site-name")

    page.get_by_role("link", name="Periodic tasks", exact=True).first.click()
    page.get_by_role("link", name="Add periodic task").click()
    page.fill("#id_name", "Made by hand")
    option = page.locator("#id_task option[value='application.tasks.send_email_task']")
    assert "Send one mail." in option.inner_text()
    page.select_option("#id_task", "application.tasks.send_email_task")
    with page.expect_popup() as opened:
        page.click("#add_id_interval")
    popup = opened.value
    popup.fill("#id_every", "1")
    popup.select_option("#id_period", "seconds")
    popup.click("[name=_save]")
    page.locator("#preview li:nth-child(5)").wait_for()
    page.evaluate("document.querySelectorAll('details').forEach(group => group.open = true)")
    page.fill("#id_args", '["browser@example.com", "a", "b", "too many"]')
    page.click("[name=_save]")
    assert "too many positional arguments" in page.inner_text(".errorlist")
    page.evaluate("document.querySelectorAll('details').forEach(group => group.open = true)")
    page.fill("#id_args", '["browser@example.com"]')
    page.click("[name=_save]")
    assert "was added successfully" in operator.says()

    wait_for(lambda: operator.marks("Made by hand") >= 2, "two runs in the strip")
    assert live.mailed_to("browser@example.com") >= 2

    operator.choose("Made by hand", "Pause")
    assert "Paused: Made by hand." in operator.says()
    assert "Paused" in operator.row("Made by hand").inner_text()

    # While it is paused, what runs is what is asked for.
    def settled() -> bool:
        count = operator.marks("Made by hand")
        page.wait_for_timeout(2_500)  # two and a half times what it ran in
        return operator.marks("Made by hand") == count

    wait_for(settled, "beat to send no more")
    mails = live.mailed_to("browser@example.com")
    operator.open("Made by hand")
    page.get_by_role("button", name="Run now").click()
    operator.confirm()
    assert "Sent a run: Made by hand." in operator.says()
    wait_for(lambda: live.mailed_to("browser@example.com") == mails + 1, "the mail asked for")

    operator.open("Made by hand")
    page.get_by_role("button", name="Resume").click()
    operator.confirm()
    assert "Resumed: Made by hand." in operator.says()
    wait_for(lambda: live.mailed_to("browser@example.com") >= mails + 3, "more mails")
    operator.open("Made by hand")
    assert page.locator("svg.chart rect.run").count() > 3
    changes = page.inner_text(".schedule")
    assert re.search(r"admin: Paused\.", changes) and re.search(r"admin: Sent a run\.", changes)
    page.get_by_role("link", name="Error and traceback").first.click()
    assert "application.tasks.send_email_task" in page.inner_text("#content")

    operator.open("Send reminder emails")
    page.select_option("#id_interval", label="every second")
    page.click("[name=_save]")
    row = operator.row("Send reminder emails")
    assert "changed by an operator: when every 10 minutes → every second" in row.inner_text()
    operator.choose("Send reminder emails", "Back to the code's values")
    row = operator.row("Send reminder emails")
    assert "declared in application/schedules.py" in row.inner_text()
    assert "changed by an operator" not in row.inner_text()
    assert "every 10 minutes" in row.inner_text()

    page.get_by_role("link", name="Timeline").click()
    drawn = page.locator("tr").filter(has_text="Made by hand")
    assert drawn.locator("svg.row path.succeeded").count() == 1
    assert drawn.locator("svg.row path.coming").count() == 1

    page.goto(operator.list)
    page.get_by_role("link", name="Pause all").click()
    operator.confirm()
    assert "Paused, with all" in operator.row("Made by hand").inner_text()
    page.get_by_role("link", name="Resume all").click()
    operator.confirm()
    assert "Paused" not in operator.row("Made by hand").inner_text()
    assert operator.hosts == {f"127.0.0.1:{live.port}"}
    assert operator.refused() == []


def test_every_page_is_usable_with_the_keyboard_and_without_serious_faults(
    live: Live, browser: Browser, axe: str
) -> None:
    operator = Operator(live, browser)
    page = operator.page
    # A run, so that there is something to be drawn.
    operator.choose("Send reminder emails", "Run now")
    wait_for(lambda: operator.marks("Send reminder emails"), "a run in the strip")
    operator.open("Send reminder emails")
    pages = [operator.list, page.url, f"{operator.list}timeline/", f"{operator.list}add/"]
    pages.append(f"{operator.list}pause_all/")

    faults = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for url in pages:
            page.goto(url)
            if "/change/" in url or "/add/" in url:
                page.wait_for_selector("#preview h2")
            assert operator.refused() == []
            page.evaluate(axe)
            faults += [
                (scheme, url, fault["id"], node["html"])
                for fault in page.evaluate("axe.run()")["violations"]
                if fault["impact"] in ("serious", "critical")
                for node in fault["nodes"]
            ]
            operator.console.clear()  # axe-core itself tries styles
    assert faults == []

    page.goto(pages[1])
    operator.tab_to(page.get_by_role("region", name="Last runs", exact=True))
    page.goto(pages[1])
    operator.tab_to(page.get_by_role("button", name="Pause"))
    page.keyboard.press("Enter")
    submit = page.locator("#content form input[type=submit]")
    submit.wait_for()
    operator.tab_to(submit)
    page.keyboard.press("Enter")
    page.wait_for_selector(".messagelist")
    assert "Paused: Send reminder emails." in operator.says()

    page.goto(operator.list)
    operator.tab_to(page.get_by_role("link", name="Timeline"))
    page.keyboard.press("Enter")
    page.wait_for_selector("form.choose")
    operator.tab_to(page.get_by_label("State"))
    page.keyboard.press("P")  # paused
    operator.tab_to(page.get_by_role("button", name="Show"))
    page.keyboard.press("Enter")
    page.wait_for_url("**state=paused**")
    operator.tab_to(page.get_by_role("link", name="Send reminder emails"))
    assert operator.hosts == {f"127.0.0.1:{live.port}"}
    assert operator.refused() == []


LONG_NAME = "x" * 179
LONG_ROW = f"""
from datetime import timedelta
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from uuid import uuid4
from scheduling.models import Run

now = timezone.now()
row = PeriodicTask.objects.create(
    name="{LONG_NAME}",
    task="application.tasks.send_email_task",
    interval=IntervalSchedule.objects.create(every=1, period="days"),
    last_run_at=now,
)
for number in range(20):
    due = now - timedelta(days=number)
    Run.objects.create(
        id=uuid4(),
        periodic_task=row,
        schedule="{LONG_NAME}",
        state="succeeded",
        scheduled_for=due,
        queued_at=due,
        started_at=due + timedelta(seconds=83),
        finished_at=due + timedelta(minutes=12, seconds=34),
    )
"""
CUT_OFF = """() => {
    const list = document.querySelector("#changelist .results");
    const end = list.getBoundingClientRect().right;
    const isCutOff = cell => {
        const box = cell.getBoundingClientRect();
        return !box.width || !box.height || box.right > end || cell.scrollWidth > cell.clientWidth;
    };
    const cells = document.querySelectorAll("#result_list tbody :is(th, td)");
    return [
        ...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []),
        ...(list.scrollWidth > list.clientWidth ? ["the list scrolls sideways"] : []),
        ...[...cells].filter(isCutOff).map(cell => `${cell.className}: ${cell.innerText}`),
    ];
}"""


def cut_off(page: Page) -> list[str]:
    """What of the list does not fit in the window."""
    found: list[str] = page.evaluate(CUT_OFF)
    return found


def test_the_list_fits_beside_the_sidebar(live: Live, browser: Browser) -> None:
    live.python(LONG_ROW)
    operator = Operator(live, browser)
    page = operator.page
    for width in (1280, 1024, 1920, 400):
        page.set_viewport_size({"width": width, "height": 860})
        marks = operator.marks(LONG_NAME)

        assert marks == 20
        assert page.locator("#nav-sidebar").is_visible() or width == 400  # Django hides it there
        assert cut_off(page) == [], width
    assert page.get_by_role("link", name=LONG_NAME).get_by_title(LONG_NAME).count() == 1
