"""Pages in headless Chromium: nothing may go wrong in them, and nothing may be asked of any network."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: The levels of axe-core's rules that an accessible page must meet.
GRAVE = ("critical", "serious")


@contextmanager
def chromium():
    """A browser for the tests of a module, in a fixture of theirs: `with chromium() as browser: yield browser`."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, report, *, width=1200, height=900, script=None, **options):
    """The page at a path in a tab of its own; at the end, no console message and no request but for the page.

    A `script` comes before those of the page. Only the driver of WebGL without hardware may say that it is slow.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    messages, asked = [], []
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    if script:
        tab.add_init_script(script)
    tab.on("console", lambda one: "GL Driver Message" in one.text or messages.append(f"{one.type}: {one.text}"))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(Path(report).as_uri())
    yield tab
    assert messages == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert {url for url in asked if url.startswith("file:")} == {Path(report).as_uri()}
    context.close()


def show(tab, panel):
    """Choose one of the page's tabs, as "figures"."""
    tab.click(f"#tab-{panel}")
    tab.wait_for_selector(f"#panel-{panel}", state="visible")


def grave_faults(tab):
    """(rule, elements) of axe-core's critical and serious findings in what the tab shows now."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found if one["impact"] in GRAVE]


def scrolls_sideways(tab):
    """Whether the page is wider than its window."""
    return tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
