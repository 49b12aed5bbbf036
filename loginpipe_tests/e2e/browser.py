"""A browser for the UI, if Chromium is installed, and the sensor's switch in the UI's own API."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Page, sync_playwright

from loginpipe_tests.e2e.project import graphql

BROWSER: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOCATION: Final = {"repositoryName": "__repository__", "repositoryLocationName": "loginpipe"}
SENSOR: Final = {**LOCATION, "sensorName": "queue_depth_sensor"}
_STATE: Final = """
query ($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) { ... on Sensor { id sensorState { id status } } }
}
"""
_STOP: Final = """
mutation ($id: String!) { stopSensor(id: $id) { __typename ... on PythonError { message } } }
"""
_RUNS: Final = "{ runsOrError { ... on Runs { results { status } } } }"
_START: Final = """
mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }
"""


@contextmanager
def open_page() -> Iterator[Page]:
    """Yield a page as wide as a laptop's screen, which waits up to three minutes for its content."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(180_000)
        yield page
        browser.close()


def sensor_status(ui: int) -> str:
    return str(graphql(ui, _STATE, selector=SENSOR)["sensorOrError"]["sensorState"]["status"])


def start_sensor(ui: int) -> None:
    graphql(ui, _START, selector=SENSOR)


def stop_sensor(ui: int) -> None:
    state = graphql(ui, _STATE, selector=SENSOR)["sensorOrError"]["sensorState"]
    graphql(ui, _STOP, id=state["id"])


def all_runs_ended(ui: int) -> bool:
    """Return True if no run is queued or active. While one is, the pages of an asset show "in progress"."""
    runs = graphql(ui, _RUNS)["runsOrError"]["results"]
    return all(run["status"] in {"SUCCESS", "FAILURE", "CANCELED"} for run in runs)
