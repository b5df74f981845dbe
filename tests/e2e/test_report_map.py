"""The map of the page in a browser: points where they belong, found again by mouse, keys, lasso and links."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy import ndimage

from icce_ray.progress import Progress
from icce_ray.report.map_data import on_grid
from icce_ray.report.page import write_report
from icce_ray.report.sprites import SIDE
from icce_ray.store.artifacts import MAP_TRUTH
from jobs.bench.made_run import add_map, make_run
from tests.browser import chromium, grave_faults, opened, scrolls_sideways, show
from tests.unit.report.conftest import HOSTILE, source_of

#: Pixels around the map at least, factor of a key, and what makes the script believe in graphics hardware.
PADDING, ZOOM = 28, 1.35
HARDWARE = """const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (what) {
  return what === 0x9246 ? 'hardware' : ask.call(this, what);
};"""
LEGEND = """all => all.map((one) => {
  const [swatch, name] = one.children;
  return [+one.dataset.group, getComputedStyle(swatch).backgroundColor, name.textContent];
})"""
INK = (
    """one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.filter((part) => part < 250).length"""
)


class Mapped:
    """A page and the places of its images, int64[n, 2] as the page has them."""

    def __init__(self, folder):
        store = make_run(str(folder / "run"), source_of(folder / "images", 120, HOSTILE), clusters=4, heads=3)
        # On a lattice, so that every point stands alone and every pixel has one colour.
        lattice = np.stack(np.meshgrid(np.arange(15), np.arange(8)), axis=-1).reshape(-1, 2)
        self.table = add_map(store, np.random.default_rng(0).permutation(lattice))
        self.label = self.table["label"].to_numpy()
        self.key = self.table["key"].to_pylist()
        truth = pa.array([f"<b>true</b> {label % 3}" for label in self.label])
        store.storage.write_table(MAP_TRUTH, pa.table({"image_id": self.table["image_id"], "label": truth}))
        self.grid = on_grid(np.stack([self.table["x"], self.table["y"]], axis=1)).astype(np.int64)
        self.path = write_report(store, Progress())

    def places(self, tab, zoom=1.0, about=None, shift=(0, 0)):
        """Pixels of all points within the frame, float64[n, 2]: after fitting, then zooming about a place."""
        size = np.array(frame(tab).evaluate("one => [one.clientWidth, one.clientHeight]"), float)
        low, high = self.grid.min(axis=0), self.grid.max(axis=0)
        scale = ((size - 2 * PADDING) / (high - low)).min()
        fitted = size / 2 + (self.grid - (low + high) / 2) * scale
        centre = size / 2 if about is None else np.asarray(about)
        return centre + (fitted - centre) * zoom + shift


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    return Mapped(tmp_path_factory.mktemp("mapped"))


def frame(tab):
    return tab.locator(".map-frame")


def shown(tab):
    """Wait until the map is there."""
    show(tab, "map")
    tab.wait_for_selector(".map-groups button")
    settle(tab)
    return tab


def settle(tab):
    """Wait until nothing moves."""
    tab.wait_for_timeout(250)
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(tab):
    """What the frame shows, without the names of classes, int64[height, width, 3]."""
    tab.add_style_tag(content=".map-labels, .map-zoom { visibility: hidden }")
    picture = tab.locator(".map-frame > canvas").first.screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def colours(tab):
    """Colour of each group of the legend by its number, and its title."""
    rows = tab.locator(".map-groups button").evaluate_all(LEGEND)
    return {group: ([int(part) for part in colour[4:-1].split(",")], title) for group, colour, title in rows}


def hover(tab, place):
    """The name of the image at a place of the frame."""
    box = frame(tab).bounding_box()
    tab.mouse.move(box["x"] + 1 + place[0], box["y"] + 1 + place[1])
    tab.wait_for_selector(".map-tip:not([hidden])")
    settle(tab)
    return tab.locator(".map-tip strong").text_content()


def drag(tab, path):
    box = frame(tab).bounding_box()
    at = [(box["x"] + 1 + x, box["y"] + 1 + y) for x, y in path]
    tab.mouse.move(*at[0])
    tab.mouse.down()
    for place in at[1:]:
        tab.mouse.move(*place, steps=3)
    tab.mouse.up()


def listed(tab):
    """Ids of the contact sheet that has opened, which is closed again."""
    tab.wait_for_selector("#sheet[open]")
    found = tab.locator("#sheet [data-image]").evaluate_all("all => all.map((one) => +one.dataset.image)")
    tab.keyboard.press("Escape")
    return sorted(found)


@pytest.mark.parametrize("painter", ["pixels", "webgl"])
def test_every_point_is_there_in_the_colour_of_its_class(browser, mapped, painter):
    with opened(browser, mapped.path, script=HARDWARE if painter == "webgl" else None) as tab:
        shown(tab)
        assert ("without graphics hardware" in tab.inner_text(".map-note")) == (painter == "pixels")
        picture, places, legend = pixels(tab), mapped.places(tab), colours(tab)
        ground = picture[1, 1]
        drawn = np.abs(picture - ground).sum(axis=-1)[6:-6, 6:-6] > 60  # without the frame's round corners
        assert ndimage.label(drawn, np.ones((3, 3)))[1] == 120
        for place, label in zip(places.round().astype(int), mapped.label, strict=True):
            # At opacity 0.92 over the ground.
            mixed = 0.92 * np.array(legend[label][0]) + 0.08 * ground
            assert np.abs(picture[place[1], place[0]] - mixed).max() <= 6


def test_colours_say_what_is_chosen(browser, mapped):
    with opened(browser, mapped.path, color_scheme="dark") as tab:
        shown(tab)
        places, own = mapped.places(tab).round().astype(int), colours(tab)
        before = pixels(tab)[places[:, 1], places[:, 0]]
        one = mapped.label[0]
        tab.locator(f".map-groups [data-group='{one}']").click()
        settle(tab)
        after, ground = pixels(tab)[places[:, 1], places[:, 0]], pixels(tab)[1, 1]
        assert (after[mapped.label == one] == before[mapped.label == one]).all()
        assert np.abs(after[mapped.label != one] - ground).max() < 30
        tab.click("text=Show all")
        tab.select_option("#map-by", "truth")
        legend = colours(tab)
        assert {title for _, title in legend.values()} == {"<b>true</b> 0", "<b>true</b> 1", "<b>true</b> 2"}
        # A true class has the colour of the class that holds most of it.
        largest = max((0, 3), key=lambda label: (mapped.label == label).sum())
        assert next(colour for colour, title in legend.values() if title.endswith("0")) == own[largest][0]
        tab.select_option("#map-by", "agreement")
        settle(tab)
        assert (pixels(tab)[places[:, 1], places[:, 0]] != before).any()
        assert tab.locator(".map-ends").inner_text().count("%") == 2


def test_keys_wheel_and_drag_move_the_map(browser, mapped):
    with opened(browser, mapped.path) as tab:
        shown(tab)
        point = int(np.linalg.norm(mapped.grid - mapped.grid.mean(axis=0), axis=1).argmin())
        name = mapped.key[point]
        assert hover(tab, mapped.places(tab)[point]) == name
        frame(tab).focus()
        tab.keyboard.press("+")
        assert hover(tab, mapped.places(tab, ZOOM)[point]) == name
        tab.keyboard.press("ArrowLeft")
        assert hover(tab, mapped.places(tab, ZOOM, shift=(60, 0))[point]) == name
        drag(tab, [(200, 100), (230, 80)])
        moved = mapped.places(tab, ZOOM, shift=(90, -20))
        assert hover(tab, moved[point]) == name
        tab.mouse.wheel(0, -200)  # about the point itself
        assert hover(tab, moved[point]) == name
        tab.keyboard.press("0")
        assert hover(tab, mapped.places(tab)[point]) == name
        assert tab.locator(".map-tip img").evaluate("one => one.naturalWidth") in (SIDE, 48)  # its own, or the card's


def test_an_image_opens_by_click_and_by_key(browser, mapped):
    with opened(browser, mapped.path) as tab:
        shown(tab)
        box, place = frame(tab).bounding_box(), mapped.places(tab)[7]
        tab.mouse.click(box["x"] + 1 + place[0], box["y"] + 1 + place[1])
        assert tab.inner_text("#large-name") == mapped.key[7]
        tab.locator("#large .map-link").click()
        tab.wait_for_selector("#large:not([open])", state="attached")
        settle(tab)
        assert tab.locator(".map-tip strong").text_content() == mapped.key[7]
        assert frame(tab).evaluate("one => document.activeElement === one")
        tab.keyboard.press("Enter")  # it is in the middle now
        assert tab.inner_text("#large-name") == mapped.key[7]


def test_lasso_and_view_list_the_images_inside(browser, mapped):
    ids = mapped.table["image_id"].to_numpy()
    with opened(browser, mapped.path) as tab:
        shown(tab)
        places, reach = mapped.places(tab), 130
        centre = places.mean(axis=0)
        inside = sorted(ids[np.abs(places - centre).sum(axis=1) < reach])
        diamond = [centre + step for step in np.array([[0, -1], [1, 0], [0, 1], [-1, 0], [0, -1]]) * reach]
        tab.click("text=Lasso")
        drag(tab, diamond)
        assert listed(tab) == inside
        assert 5 < len(inside) < 60
        assert tab.inner_text(".map-said") == f"{len(inside)} images in the lasso"
        tab.keyboard.down("Shift")
        drag(tab, diamond)
        tab.keyboard.up("Shift")
        assert listed(tab) == inside
        frame(tab).focus()
        for _ in range(3):
            tab.keyboard.press("+")
        tab.keyboard.press("Tab")
        tab.focus("text=List images in view")
        tab.keyboard.press("Enter")
        size = frame(tab).evaluate("one => [one.clientWidth, one.clientHeight]")
        seen = mapped.places(tab, ZOOM**3)
        assert listed(tab) == sorted(ids[((seen >= 0) & (seen <= size)).all(axis=1)])


def test_a_card_leads_to_its_class_on_the_map(browser, mapped):
    with opened(browser, mapped.path) as tab:
        tab.locator("#class-2 .map-link").click()
        tab.wait_for_selector(".map-groups [data-group='2'][aria-pressed='true']")
        assert tab.locator(".map-groups [aria-pressed='true']").count() == 1
        assert tab.locator("#panel-map").is_visible()


def test_decisions_change_the_map(browser, mapped):
    with opened(browser, mapped.path) as tab:
        shown(tab)
        places, own = mapped.places(tab).round().astype(int), colours(tab)
        show(tab, "classes")
        tab.click("#class-1 [data-tool=rename]")
        tab.keyboard.type("<i>cats</i>")
        tab.keyboard.press("Enter")
        tab.click("#class-3 [data-tool=merge]")
        tab.fill("#choose input", "1")
        tab.keyboard.press("Enter")
        show(tab, "map")
        tab.wait_for_function("document.querySelectorAll('.map-groups button').length === 3")
        settle(tab)
        assert colours(tab)[1] == (own[1][0], "Class 1: <i>cats</i>")
        assert "<i>cats</i>" in tab.locator(".map-labels span").all_inner_texts()
        found = pixels(tab)[places[:, 1], places[:, 0]]
        assert len({tuple(row) for row in found[np.isin(mapped.label, [1, 3])].tolist()}) == 1


def test_the_map_is_saved_and_printed(browser, mapped):
    with opened(browser, mapped.path) as tab:
        shown(tab)
        places, legend = mapped.places(tab).round().astype(int), colours(tab)
        with tab.expect_download() as saved:
            tab.click("text=Save as PNG")
        with Image.open(saved.value.path()) as image:
            picture = np.asarray(image.convert("RGB")).astype(int)
        hit = [
            np.abs(picture[y, x] - legend[label][0]).max() < 30
            for (x, y), label in zip(places, mapped.label, strict=True)
        ]
        assert np.mean(hit) > 0.9  # names of classes lie on some
        tab.click("#tab-classes")
        tab.pdf()
        assert tab.locator(".map-printed").evaluate(INK) > 1000


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow(3))])
def test_it_is_accessible_and_narrow(browser, mapped, scheme):
    with opened(browser, mapped.path, width=375, color_scheme=scheme) as tab:
        shown(tab)
        assert grave_faults(tab) == []
        assert not scrolls_sideways(tab)
        assert frame(tab).bounding_box()["width"] > 300
