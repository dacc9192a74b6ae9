"""Chromium, driven as a person would, for stories that end on a screen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from needs import needed
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "correct horse battery"
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  for (const kind of ["dragover", "drop"])
    document.querySelector("#film").dispatchEvent(
      new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
"""Drop a PNG, given by name and base64, on the workbench's picture area."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless browser without history."""
    path = needed("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def window(browser: Browser, width: int = 1280, height: int = 800, **options: Any) -> Iterator[BrowserContext]:
    """Open a window with its own cookies; a script error on its pages fails the test."""
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": width, "height": height}, accept_downloads=True, **options
    )
    faults: list[str] = []
    context.on("weberror", lambda error: faults.append(str(error.error)))
    try:
        yield context
    finally:
        context.close()
    assert not faults


def sign_in(page: Page, address: str, name: str, password: str = PASSWORD) -> None:
    """Open the page, and sign in as a person does."""
    page.goto(address)
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("button[type=submit].main")


def serious(page: Page) -> list[str]:
    """Return the findings of axe that are serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
