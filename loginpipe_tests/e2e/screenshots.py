"""Take the screenshots of the documentation from the real UI: `make screenshots`.

Messages arrive over a few minutes while the sensor is off, so that one run takes them all and its plots show something.
Then many bad ones arrive, so that a check fails.
"""

import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from playwright.sync_api import Page
from rich.progress import track

from loginpipe.local.sample_events import sample_bodies
from loginpipe_tests.e2e.browser import all_runs_ended, open_page, start_sensor, stop_sensor
from loginpipe_tests.e2e.project import Project, eventually, running_project, running_ui

BURSTS: Final = (120, 340, 260, 510, 90, 420, 300, 150)
"""Messages to send, one burst every 45 seconds."""
PAUSE_SECONDS: Final = 45


@dataclass(frozen=True)
class Picture:
    """One screenshot: the page, the texts to wait for, and the height."""

    name: str
    path: str
    words: str
    height: int = 900
    click: str | None = None


OF_A_LONG_BATCH: Final = (
    Picture("asset-with-plots", "/assets/raw_sqs_messages", "messages_per_minute", 1850),
    Picture("delays", "/assets/user_logins_table", "newly_in_vault", 1850),
)
IN_THE_END: Final = (
    Picture("asset-graph", "/locations/loginpipe/asset-groups/login_ingest", "rejected_logins", 800),
    Picture("duplicates", "/assets/duplicate_devices", "most_users", 1750),
    Picture("sensor-ticks", "/locations/loginpipe/sensors/queue_depth_sensor", "1 run requested", 1100),
    Picture("failed-check", "/assets/validated_logins?view=checks", "schema_drift", 900, "reject_rate"),
)


def main() -> None:
    """Take every screenshot into the folder given on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, running_project(Path(place)) as project, running_ui(project) as ui:
        _long_batch(project, ui)
        with open_page() as page:
            for picture in OF_A_LONG_BATCH:
                _take(page, ui, picture, folder)
        _bad_batch(project, ui)
        insights = ("--select", "group:login_insights", "--partition", f"{datetime.now(UTC):%Y-%m-%d}")
        project.run("dagster", "asset", "materialize", "-m", "loginpipe.definitions", *insights)
        with open_page() as page:
            for picture in IN_THE_END:
                _take(page, ui, picture, folder)


def _long_batch(project: Project, ui: int) -> None:
    stop_sensor(ui)
    for seed, count in enumerate(track(BURSTS, description="messages come in")):
        project.run("loginpipe", "send", "--count", str(count), "--seed", str(seed))
        time.sleep(PAUSE_SECONDS)
    start_sensor(ui)
    _until_stored(project, ui, sum(BURSTS))


def _bad_batch(project: Project, ui: int) -> None:
    bad = project.folder / "bad.txt"
    bad.write_text("\n".join(sample_bodies(400, seed=99, bad_share=0.2)))
    sent = json.loads(project.run("loginpipe", "send", "--file", str(bad), "--json").stdout)["sent"]
    _until_stored(project, ui, sum(BURSTS) + sent)


def _until_stored(project: Project, ui: int, messages: int) -> None:
    counts = "SELECT coalesce(sum(received), 0) FROM loginpipe.batches WHERE finished_at IS NOT NULL"
    eventually(lambda: project.rows(counts) == [(messages,)], seconds=300, what="all is stored")
    # A run reports when it ends, a minute after the last message.
    eventually(lambda: all_runs_ended(ui), seconds=300, what="the runs have ended")


def _take(page: Page, ui: int, picture: Picture, folder: Path) -> None:
    page.set_viewport_size({"width": 1400, "height": picture.height})
    page.goto(f"http://127.0.0.1:{ui}{picture.path}")
    page.get_by_text(picture.words).first.wait_for()
    if picture.click:
        page.get_by_text(picture.click).first.click()
    # The graph and the plots are laid out after the texts are there.
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3_000)
    page.screenshot(path=folder / f"{picture.name}.png")


if __name__ == "__main__":
    main()
