"""The tab Findings in a browser: groups that follow the slider, tiles with words, how to get all as a file."""

import pytest

from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from jobs.bench.made_run import make_run
from tests.browser import chromium, grave_faults, opened, scrolls_sideways, show
from tests.inspected_run import inspected
from tests.unit.report.conftest import HOSTILE, source_of


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    source = source_of(folder / "images", 60, HOSTILE)
    store = make_run(str(folder / "run"), source, clusters=3, heads=3)
    return write_report(inspected(store, images=(0, 1, 2, 3, 5)), Progress())


@pytest.fixture(scope="module")
def tab(report):
    with chromium() as browser, opened(browser, report) as one:
        show(one, "findings")
        yield one


def groups(tab):
    found = tab.locator("#found-duplicates .groups").last.locator(".group")
    return found.evaluate_all("all => all.map((one) => one.querySelectorAll('[data-image]').length)")


def test_groups_follow_the_slider(tab):
    assert groups(tab) == [2]
    tab.locator("#similarity").fill("0.5")
    assert groups(tab) == [3]  # 1-2 and 2-3 share an image
    assert tab.inner_text("#found-duplicates output") == "from 0.50 on: 1 group"
    tab.locator("#similarity").press("End")
    assert groups(tab) == []
    tab.locator("#found-duplicates .group button", has_text="2 images").first.click()
    assert tab.locator("#sheet .tiles li").count() == 2
    tab.keyboard.press("Escape")


def test_each_part_says_what_was_found_and_how_to_get_all(tab):
    for part, count, form in (
        ("duplicates", 4, "duplicates"),
        ("outliers", 2, "outliers"),
        ("quality", 1, "quality"),
        ("labels", 1, "label-issues"),
    ):
        assert tab.inner_text(f"#found-{part} h2").endswith(f" {count}")
        assert f"--format {form} --out {form}.csv" in tab.inner_text(f"#found-{part}")
    assert "9.0 deviations" in tab.inner_text("#found-outliers .captioned >> nth=0")
    assert "b → a 75 %" in tab.inner_text("#found-labels .captioned")
    tab.locator("#found-outliers .captioned button").first.click()
    assert tab.inner_text("#large-place") == "1 of 2"
    tab.keyboard.press("Escape")


def test_the_tab_is_accessible_and_narrow(tab):
    for theme in ("dark", "light"):
        assert grave_faults(tab) == [], theme
        tab.click("#theme")
    tab.set_viewport_size({"width": 375, "height": 800})
    assert not scrolls_sideways(tab)
