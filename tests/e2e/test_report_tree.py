"""The tree of the classes in the page, and figures that become files."""

import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from icce_ray.core.hierarchy import cut
from icce_ray.export.superclasses import hierarchy_of
from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from jobs.bench.made_run import make_run
from tests.browser import chromium, grave_faults, opened, scrolls_sideways, show
from tests.unit.report.conftest import HOSTILE, source_of

CLASSES = 12
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    source = source_of(folder / "images", 400, HOSTILE)
    return make_run(str(folder / "run"), source, clusters=CLASSES, heads=6, epochs=5)


@pytest.fixture(scope="module")
def report(store, tmp_path_factory):
    names = tmp_path_factory.mktemp("names") / "names.csv"
    names.write_text('label,name\n3,"<i>cats</i> & dogs"\n')
    return write_report(store, Progress(), names=str(names))


def groups(tab):
    """Labels of the cards below each heading, in the order of the page."""
    found = [[]]
    for name in tab.locator("#cards > *").evaluate_all("all => all.map((one) => one.id)"):
        if name.startswith("superclass-"):
            found.append([])
        else:
            found[-1].append(int(name.removeprefix("class-")))
    return [one for one in found if one]


def saved(tab, button):
    with tab.expect_download() as coming:
        tab.get_by_role("button", name=button).click()
    return coming.value.suggested_filename, coming.value.path().read_bytes()


def test_the_cut_groups_the_cards_as_the_export_does(browser, report, store):
    merges = hierarchy_of(store)["merges"]
    with opened(browser, report, width=1600) as tab:
        assert groups(tab) == [list(range(CLASSES))]
        tab.focus("#superclasses")
        for keys, count in ((["Home", "ArrowRight", "ArrowRight"], 3), (["End", "ArrowLeft"], CLASSES - 1)):
            for key in keys:
                tab.keyboard.press(key)
            upper = cut(merges, CLASSES, count).tolist()
            assert groups(tab) == [[one for one in range(CLASSES) if upper[one] == group] for group in range(count)]
            assert tab.get_attribute("#superclasses", "aria-valuetext") == f"{count} superclasses"
        tab.fill("#find", "cats")
        assert groups(tab) == [[3]]
        tab.fill("#find", "")
        tab.focus("#superclasses")
        tab.keyboard.press("End")
        assert groups(tab) == [list(range(CLASSES))]


def test_names_in_the_tree_lead_to_cards_and_follow_decisions(browser, report):
    with opened(browser, report, width=1600) as tab:
        leaves = tab.locator(".leaves a")
        assert sorted(leaves.evaluate_all("all => all.map((one) => one.hash)")) == sorted(
            f"#class-{one}" for one in range(CLASSES)
        )
        tab.get_by_role("list", name="Classes").get_by_role("link", name="<i>cats</i>").hover()
        assert tab.locator(".card.lit").evaluate_all("all => all.map((one) => one.id)") == ["class-3"]
        tab.locator(".leaves a[href='#class-7']").press("Enter")
        assert tab.evaluate("document.querySelector(':target').id") == "class-7"
        pairs = tab.locator(".pairs li")
        tab.locator(".pairs button").first.click()
        assert "(merged)" in pairs.first.text_content()


@pytest.mark.parametrize(("width", "theme"), [(375, "dark"), (1600, "light")])
def test_the_tree_is_accessible_and_fits(browser, report, width, theme):
    with opened(browser, report, width=width, color_scheme=theme) as tab:
        if width == 375:
            assert not tab.is_visible("#superclasses")
            tab.get_by_text("Tree of the classes").click()
        tab.focus("#superclasses")
        tab.keyboard.press("Home")
        tab.keyboard.press("ArrowRight")
        assert grave_faults(tab) == []
        assert not scrolls_sideways(tab)


def test_figures_become_files_of_vectors_and_pixels(browser, report):
    with opened(browser, report, width=1600, color_scheme="dark") as tab:
        name, data = saved(tab, "Save the tree as SVG")
        tree = ElementTree.fromstring(data)
        assert name == "icce-classes-tree.svg"
        assert len(list(tree.iter(f"{SVG}path"))) == CLASSES - 1
        assert "Class 3: <i>cats</i> & dogs" in [one.text for one in tree.iter(f"{SVG}text")]
        name, data = saved(tab, "Save the tree as PNG")
        picture = Image.open(io.BytesIO(data))
        assert (name, picture.format) == ("icce-classes-tree.png", "PNG")
        assert picture.height > 2 * 24 * CLASSES
        assert picture.getpixel((0, 0))[:3] == (0x12, 0x14, 0x17)  # the page's ground in dark
        assert len(picture.convert("RGB").getcolors(1 << 24)) > CLASSES
        show(tab, "figures")
        for title, name, least in (("Losses of all heads", "icce-training-losses.svg", 12), ("Head by head", None, 36)):
            file, data = saved(tab, f"Save {title} as SVG")
            figure = ElementTree.fromstring(data)
            assert file == (name or file)
            assert len(list(figure.iter(f"{SVG}path"))) >= least
            assert not list(figure.iter(f"{SVG}image"))
            assert title in [one.text for one in figure.iter(f"{SVG}text")]
