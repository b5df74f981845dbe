"""The page of a run in a browser: what people do with classes and pictures, by mouse, by keyboard and on paper.

ICCE_REPORTS: paths of further `report/index.html`, with the system's separator between them, such as large ones.
"""

import os

import pytest

from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from jobs.bench.made_run import make_run
from tests.browser import chromium, grave_faults, opened, scrolls_sideways, show
from tests.unit.report.conftest import HOSTILE, source_of

FURTHER = [path for path in os.environ.get("ICCE_REPORTS", "").split(os.pathsep) if path]
PICTURES = "[...document.querySelectorAll('%s')].some((one) => one.naturalWidth > 0)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a made-up run with hostile names, 12 classes, rejects and an alarm."""
    folder = tmp_path_factory.mktemp("hostile")
    source = source_of(folder / "<i>images & 'quotes'", 600, HOSTILE)
    store = make_run(str(folder / "run"), source, clusters=12, heads=6, rejects=7, alarms=["<b>2 heads</b> stopped"])
    (folder / "names.csv").write_text('label,name\n3,"<i>cats</i> & dogs"\n')
    return write_report(store, Progress(), names=str(folder / "names.csv"))


@pytest.fixture(params=["hostile", *(pytest.param(one, marks=pytest.mark.slow(3)) for one in FURTHER)])
def report(request):
    """A page as a path."""
    return request.getfixturevalue("hostile") if request.param == "hostile" else request.param


def labels(tab):
    return [
        int(name.removeprefix("class-")) for name in tab.locator("#cards .card").evaluate_all("a => a.map(b => b.id)")
    ]


def data(tab, name):
    return tab.evaluate(f"JSON.parse(document.getElementById('data-{name}').textContent)")


def tabbed(tab, what, value, most=30):
    """Press the tab key until an expression has this value, over the tools in between; whether it came to have it."""
    for _ in range(most):
        tab.keyboard.press("Tab")
        if tab.evaluate(what) == value:
            return True
    return False


def test_the_gallery_finds_and_sorts(browser, report):
    with opened(browser, report) as tab:
        every = labels(tab)
        assert every == list(range(len(every)))
        classes, images = data(tab, "classes"), data(tab, "images")
        size = {one["label"]: one["size"] for one in classes}
        for order, key in {
            "large": lambda label: (-size[label], label),
            "small": lambda label: (size[label], label),
            "doubt": lambda label: (classes[label]["agreement"], label),
        }.items():
            tab.select_option("#sort", order)
            assert labels(tab) == sorted(every, key=key)
        tab.fill("#find", "3")
        assert labels(tab) == [3]
        assert tab.inner_text("#found") == f"1 of {len(every)} classes"
        one = images[str(classes[5]["tiles"][0][0])]
        tab.fill("#find", one.get("key", one["uri"]).upper())
        assert 5 in labels(tab)
        assert len(labels(tab)) < len(every)
        tab.fill("#find", "no such image")
        assert labels(tab) == []
        # A link to a class that is hidden brings it back, also from another panel.
        show(tab, "run")
        tab.evaluate("location.hash = '#class-5'")
        tab.wait_for_selector("#class-5", state="visible")
        assert sorted(labels(tab)) == every


def test_names_are_shown_as_text(browser, hostile):
    with opened(browser, hostile) as tab:
        assert "owned" not in tab.title()
        assert tab.locator("#cards b, #cards script, main b, main > i").count() == 0
        assert tab.locator("#class-3 h3").text_content() == "Class 3: <i>cats</i> & dogs"
        assert tab.locator("h1").text_content().endswith("<i>images & 'quotes'")
        images = data(tab, "images")
        picked = {str(image_id) for one in data(tab, "classes") for ids in one["tiles"] for image_id in ids}
        named = {images[one]["key"]: images[one]["label"] for one in picked if images[one]["key"] in HOSTILE}
        assert len(named) >= 3  # the others were not picked
        for name, label in named.items():
            tab.locator(f"#class-{label} .cover").click()
            assert tab.locator("#sheet img").and_(tab.get_by_alt_text(name, exact=True)).count() >= 1
            tab.keyboard.press("Escape")
        show(tab, "figures")
        assert tab.locator(".alarms").inner_text().endswith("<b>2 heads</b> stopped")
        assert "owned" not in tab.title()


def test_the_keyboard_leads_to_a_picture_and_back(browser, report):
    with opened(browser, report) as tab:
        focused = "document.activeElement.closest('[id]').id"
        tab.focus("#sort")
        assert tabbed(tab, focused, "class-0")
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate(focused) == "class-1"
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#sheet[open]")
        image = "document.activeElement.dataset.image"
        assert tabbed(tab, image, str(data(tab, "classes")[1]["tiles"][0][0]))
        tab.keyboard.press("ArrowRight")
        second = tab.evaluate(image)
        assert second == str(data(tab, "classes")[1]["tiles"][0][1])
        tab.keyboard.press("Enter")
        tab.wait_for_function(PICTURES % "#large-picture")
        one = data(tab, "images")[second]
        assert tab.inner_text("#large-name") == one["key"]
        assert tab.inner_text("#large-place").startswith("2 of ")
        tab.keyboard.press("ArrowRight")
        assert tab.inner_text("#large-place").startswith("3 of ")
        assert "runner-up" in tab.inner_text("#large-about")
        assert tab.locator("#large-near img").count() >= 4
        tab.keyboard.press("Escape")
        assert tab.evaluate("document.activeElement.dataset.image") == second
        tab.keyboard.press("Escape")
        assert tab.evaluate(focused) == "class-1"
        tab.focus("#tab-classes")
        tab.keyboard.press("ArrowLeft")
        assert tab.evaluate(focused) == "tab-run"
        assert tab.locator("#time").is_visible()


def test_the_sheet_has_both_sides_of_the_border(browser, hostile):
    with opened(browser, hostile) as tab:
        one = data(tab, "classes")[3]
        other, mine, theirs = one["border"]
        assert other in {label for label, _ in one["near"]}
        tab.locator("#class-3 .cover").click()
        for place, ids in enumerate((mine, theirs)):
            side = tab.locator(".sides > div").nth(place)
            shown = side.locator("[data-image]").evaluate_all("a => a.map((one) => Number(one.dataset.image))")
            assert shown == ids
        images = data(tab, "images")
        assert {images[str(image_id)]["second"][0] for image_id in mine} <= {other}
        assert {images[str(image_id)]["label"] for image_id in theirs} <= {other}


def test_dark_as_the_system_or_the_button_says(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, report, color_scheme="dark") as tab:
        dark = tab.evaluate(ground)
        tab.click("#theme")
        light = tab.evaluate(ground)
    with opened(browser, report, color_scheme="light") as tab:
        assert tab.evaluate(ground) == light
    assert sum(map(int, dark[4:-1].split(","))) < 150
    assert sum(map(int, light[4:-1].split(","))) > 700


@pytest.mark.parametrize("width", [375, pytest.param(1600, marks=pytest.mark.slow(3))])
def test_no_width_needs_sideways_scrolling(browser, report, width):
    with opened(browser, report, width=width) as tab:
        for panel in ("classes", "figures", "run"):
            show(tab, panel)
            assert not scrolls_sideways(tab), panel
        show(tab, "classes")
        tab.locator(".cover").first.click()
        assert tab.evaluate("document.getElementById('sheet').scrollWidth <= innerWidth")
        tab.locator("#sheet .tiles button").first.click()
        box = tab.locator("#large").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.slow(6))])
def test_axe_finds_no_grave_fault(browser, report, scheme):
    with opened(browser, report, color_scheme=scheme) as tab:
        for panel in ("run", "figures", "classes"):
            show(tab, panel)
            assert grave_faults(tab) == [], panel
        tab.locator(".cover").first.click()
        assert grave_faults(tab) == []
        tab.locator("#sheet .tiles button").first.click()
        assert grave_faults(tab) == []


def test_paper_has_every_card_with_its_pictures(browser, report):
    with opened(browser, report, color_scheme="dark") as tab:
        tab.wait_for_function(PICTURES % ".cover img")
        theme = "document.documentElement.dataset.theme"
        tab.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {theme} }})")
        assert len(tab.pdf()) > 100_000
        assert tab.evaluate("window.printed") == "light"
        tab.wait_for_function(f"{theme} === 'dark'")
        every = len(data(tab, "classes"))
        assert tab.locator(".cover:has(img)").count() == every
        tab.emulate_media(media="print")
        assert tab.locator("#cards .card:visible").count() == every
        assert tab.locator("[role=tabpanel]:visible").count() == tab.locator("[role=tabpanel]").count()
