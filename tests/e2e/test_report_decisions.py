"""Classes corrected in the page: what is decided, kept, saved and taken up again, in a real browser."""

import json
from pathlib import Path

import pytest

from icce_ray.documents import shaped
from icce_ray.progress import Progress
from icce_ray.report.corrections import correctable
from icce_ray.report.page import write_report
from icce_ray.store.decisions import Decisions, read_decisions
from jobs.bench.made_run import make_run
from tests.browser import chromium, grave_faults, opened, scrolls_sideways
from tests.unit.report.conftest import HOSTILE, source_of

DECISIONS = Path(__file__).parents[2] / "icce_ray/report/assets/decisions.js"
LONG = f"{'deep/' * 40}0001.jpg"
CLASSES = 6
NOTHING = {"rename": {}, "merge": [], "split": {}, "reject": [], "move": []}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A made-up run of 200 images in a folder whose name a shell would split."""
    folder = tmp_path_factory.mktemp("a run")
    return make_run(
        str(folder / "run"), source_of(folder / "images", 200, (*HOSTILE, LONG)), clusters=CLASSES, heads=4, epochs=5
    )


@pytest.fixture(scope="module")
def page(run):
    return write_report(run, Progress())


@pytest.fixture
def whose(run):
    """The start of a file of decisions about the run."""
    of = correctable(run)
    return {
        "format": "icce-decisions",
        "version": 1,
        "run": {name: of[name] for name in ("predictions", "version", "classes")},
    }


def tool(tab, label, name):
    return tab.locator(f"#class-{label} [data-tool={name}]")


def rename(tab, label, name):
    tool(tab, label, "rename").click()
    tab.keyboard.type(name)
    tab.keyboard.press("Enter")


def merge(tab, label, other):
    tool(tab, label, "merge").click()
    choose(tab, other)


def choose(tab, label):
    tab.fill("#choose input", str(label))
    tab.keyboard.press("Enter")


def saved(tab):
    with tab.expect_download() as download:
        tab.click("#corrections button:text-is('Save')")
    assert download.value.suggested_filename == "decisions.json"
    read_decisions(str(download.value.path()))  # `icce refine` takes it
    return json.loads(Path(download.value.path()).read_text())


def given(tab, content, name="decisions.json"):
    """Open a file of this content; what the page says of it."""
    data = content if isinstance(content, str) else json.dumps(content)
    tab.set_input_files(
        "#decisions input[type=file]", {"name": name, "mimeType": "application/json", "buffer": data.encode()}
    )
    tab.wait_for_selector("#decisions[open]")
    return words(tab)


def words(tab):
    """What the page says of the last thing done."""
    return tab.inner_text("#decisions .said")


def listed(tab):
    return tab.locator("#decisions .rows span").all_inner_texts()


def title(tab, label):
    return tab.locator(f"#class-{label} h3").inner_text()


def test_classes_are_corrected_on_their_cards(browser, page, whose):
    with opened(browser, page, accept_downloads=True) as tab:
        assert not tab.locator("#corrections").is_visible()
        rename(tab, 4, "<i>cats</i> & dogs")
        merge(tab, 4, 1)
        assert title(tab, 1) == "Class 1: <i>cats</i> & dogs"
        assert not tab.locator("#class-4").is_visible()
        assert tab.inner_text("#found") == "5 of 5 classes"
        sizes = [one["size"] for one in tab.evaluate("JSON.parse(document.getElementById('data-classes').textContent)")]
        assert tab.locator("#class-1 .bars dd").nth(1).inner_text() == str(sizes[1] + sizes[4])
        tool(tab, 2, "split").click()
        tool(tab, 2, "split").fill("90")
        tab.keyboard.press("Enter")
        assert "and 90 parts need 900" in tab.inner_text("#corrections .said")
        tool(tab, 2, "split").fill("3")
        tab.keyboard.press("Enter")
        tool(tab, 5, "reject").click()
        expected = (
            whose
            | NOTHING
            | {"rename": {"1": "<i>cats</i> & dogs"}, "merge": [[1, 4]], "split": {"2": 3}, "reject": [5]}
        )
        assert saved(tab) == expected
        assert listed(tab) == [
            "Name class 1 “<i>cats</i> & dogs”",
            "Merge classes 1, 4 into class 1 (<i>cats</i> & dogs)",
            "Split class 2 into 3",
            "Reject class 5",
        ]
        for _ in range(2):  # the merge and the split, each alone
            tab.get_by_role("button", name="Remove: Merge").or_(
                tab.get_by_role("button", name="Remove: Split")
            ).first.click()
        tab.keyboard.press("Escape")
        assert title(tab, 4) == "Class 4: <i>cats</i> & dogs"
        assert saved(tab) == whose | NOTHING | {"rename": {"4": "<i>cats</i> & dogs"}, "reject": [5]}
        tab.keyboard.press("Escape")
        tool(tab, 5, "restore").click()
        for _ in range(3):
            tab.keyboard.press("Control+z")
        assert saved(tab) == expected
        tab.keyboard.press("Control+Shift+z")
        assert len(listed(tab)) == 3


def test_images_are_moved_and_shown_in_their_new_class(browser, run, page, whose):
    images = {
        row["image_id"]: row
        for info in run.require("predict").files
        for row in run.storage.read_table(info.path).to_pylist()
    }
    (long,) = (image for image, row in images.items() if row["key"] == LONG)
    with opened(browser, page, accept_downloads=True) as tab:
        tab.click("#class-0 .cover")
        tiles = tab.locator("#sheet .tiles").first.locator("button")
        ids = [int(tiles.nth(place).get_attribute("data-image")) for place in range(1, 4)]
        tiles.nth(1).click(modifiers=["Control"])
        tiles.nth(3).click(modifiers=["Shift"])
        assert tab.locator("#sheet .selected").count() >= 3
        tab.click("#corrections button:text-is('Move to class…')")
        choose(tab, 3)
        assert tiles.nth(1).get_attribute("data-moved") == "→ class 3"
        assert tab.locator("#sheet .selected").count() == 0
        # One of them back again, in the large view.
        tiles.nth(1).click()
        tab.click("#large button:text-is('Move back')")
        tab.keyboard.press("Escape")
        tab.keyboard.press("Escape")
        tab.click("#class-3 .cover")
        assert tab.locator("#sheet h3").first.inner_text().lower() == "moved here"
        here = tab.locator("#sheet .tiles").first.locator("button")
        assert sorted(int(one.get_attribute("data-image")) for one in here.all()) == sorted(ids[1:])
        tab.keyboard.press("Escape")
        # The file names an image in full, also where the page cuts its name.
        tab.fill("#find", LONG[-20:])
        tab.locator("#cards .cover").first.click()
        tab.locator(f"#sheet [data-image='{long}']").first.click()
        tab.click("#large button:text-is('Move to class…')")
        to = (images[long]["label"] + 1) % CLASSES
        choose(tab, to)
        tab.keyboard.press("Escape")
        moves = [{"image_id": image, "key": images[image]["key"], "to": 3} for image in ids[1:]]
        moves.append({"image_id": long, "key": LONG, "to": to})
        tab.keyboard.press("Escape")
        assert saved(tab) == whose | NOTHING | {"move": sorted(moves, key=lambda one: one["image_id"])}
        assert len(listed(tab)) == len({one["to"] for one in moves})


def test_decisions_are_kept_until_they_are_discarded(browser, page):
    with opened(browser, page) as tab:
        rename(tab, 0, "kept")
        other = tab.context.new_page()  # a second window on the same page keeps up
        other.goto(Path(page).as_uri())
        merge(tab, 2, 3)
        other.wait_for_selector("#class-3", state="hidden")
        assert title(other, 0) == "Class 0: kept"
        other.close()
        tab.reload()
        assert title(tab, 0) == "Class 0: kept"
        assert not tab.locator("#class-3").is_visible()
        assert not tab.locator("#corrections button:text-is('Undo')").is_enabled()
        tab.click("#corrections .total")
        assert listed(tab) == ["Name class 0 “kept”", "Merge classes 2, 3 into class 2"]
        tab.click("#decisions button:text-is('Discard all')")
        tab.click("#decisions button:text-is('No')")
        assert len(listed(tab)) == 2
        tab.click("#decisions button:text-is('Discard all')")
        tab.click("#decisions button:text-is('Yes')")
        assert listed(tab) == []
        tab.keyboard.press("Escape")
        assert title(tab, 0) == "Class 0"
        tab.reload()
        assert not tab.locator("#corrections").is_visible()


def test_a_browser_that_keeps_nothing_says_so(browser, page):
    refusing = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    with opened(browser, page) as tab:
        tab.add_init_script(refusing)
        tab.reload()
        rename(tab, 0, "lost")
        tab.click("#corrections .total")
        assert "keeps nothing" in tab.inner_text("#decisions .warning")
        tab.keyboard.press("Control+z")  # leaving asks, otherwise


def test_a_saved_file_is_opened_again(browser, page, whose):
    file = whose | NOTHING | {"rename": {"1": "birds"}, "merge": [[1, 4]], "split": {"2": 3}, "reject": [5]}
    file |= {"move": [{"image_id": 50, "key": "00050.jpg", "to": 0}]}
    with opened(browser, page, accept_downloads=True) as tab:
        rename(tab, 0, "before")
        assert given(tab, file) == "5 decisions of decisions.json taken up."
        assert len(listed(tab)) == 5
        tab.keyboard.press("Escape")
        assert title(tab, 1) == "Class 1: birds"
        assert saved(tab) == file
        tab.keyboard.press("Control+z")
        assert listed(tab) == ["Name class 0 “before”"]
        tab.keyboard.press("Escape")
        # Dropped on the page.
        tab.evaluate(
            """(text) => {
              const data = new DataTransfer();
              data.items.add(new File([text], "dropped.json"));
              const options = { dataTransfer: data, bubbles: true, cancelable: true };
              document.body.dispatchEvent(new DragEvent("drop", options));
            }""",
            json.dumps(file),
        )
        tab.wait_for_selector("#decisions[open]")
        assert words(tab) == "5 decisions of dropped.json taken up."


def test_files_that_are_not_of_this_run_are_refused(browser, page, whose):
    other = {"predictions": "0" * 16, "version": 0, "classes": CLASSES}
    refused = {
        "not JSON": "{",
        "not a file of decisions": "[]",
        "belongs to another run": whose | NOTHING | {"run": other, "reject": [1]},
        "belongs to version 2": whose | NOTHING | {"run": whose["run"] | {"version": 2}},
        "a field colour, which is unknown": whose | NOTHING | {"colour": {}},
        "class 1 is there more than once": whose | NOTHING | {"merge": [[0, 1]], "reject": [1]},
        "move must": whose | NOTHING | {"move": [{"image_id": 1, "to": 2}]},
    }
    with opened(browser, page) as tab:
        rename(tab, 0, "stays")
        for expected, content in refused.items():
            said = given(tab, content, "mine.json")
            assert said.startswith("mine.json was not opened: ")
            assert expected in said
            assert listed(tab) == ["Name class 0 “stays”"]
        # What is gone is named; the others count.
        moves = [{"image_id": 999, "key": "x.jpg", "to": 1}, {"image_id": 50, "key": "renamed.jpg", "to": 1}]
        file = whose | NOTHING | {"rename": {"2": "there"}, "merge": [[0, 1, 9]], "reject": [7], "move": moves}
        assert "4 decisions could not be" in given(tab, file)
        assert listed(tab) == ["Name class 2 “there”", "Merge classes 0, 1 into class 0"]
        gone = tab.locator("#decisions .warning li").all_inner_texts()
        assert sorted(text.split(":")[0] for text in gone) == [
            "Merge of 0, 1, 9",
            "Move of renamed.jpg",
            "Move of x.jpg",
            "Rejection of class 7",
        ]


def test_the_keyboard_does_it_all(browser, page, whose):
    def press(*keys):
        for key in keys:
            tab.keyboard.press(key)

    def held():
        return tab.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")

    with opened(browser, page, accept_downloads=True) as tab:
        tab.locator("#class-0 .cover").focus()
        while held() != "Rename: class 0":
            press("Tab")
        press("Enter", *"cats", "Enter")
        assert held() == "Rename: class 0"
        press("Tab", "Enter")  # the choice of a class to merge with
        press("3", "Enter")
        assert held() == "Merge…: class 0"
        press("Tab")
        assert held() == "Unmerge: class 0"
        tab.locator("#corrections button:text-is('Undo')").focus()
        press("Enter", "Enter")  # name and merge
        assert held() == "Redo"
        press("Enter", "Enter")
        assert held() == "Undo"
        tab.locator("#class-2 .cover").focus()
        press("ArrowRight")  # past the card that is merged
        assert held().startswith("Open Class 4")
        press("Home", "ArrowRight")
        assert held().startswith("Open Class 1")
        press("Enter")  # its contact sheet
        while tab.evaluate("!document.activeElement.closest('.tiles')"):
            press("Tab")
        image = int(tab.evaluate("document.activeElement.dataset.image"))
        press("Space", "ArrowRight", "Space")
        assert tab.locator("#sheet .tiles").first.locator(".selected").count() == 2
        press("Space")
        while held() != "Move to class…":
            press("Tab")
        press("Enter", "2", "Enter")
        assert tab.evaluate("document.activeElement.closest('#sheet .tiles') !== null")
        press("Escape", "Control+z", "Control+Shift+z")
        while not held().endswith("decisions"):
            press("Tab")
        press("Enter")
        while held() != "Save decisions.json":
            press("Tab")
        with tab.expect_download() as download:
            press("Enter")
        file = json.loads(Path(download.value.path()).read_text())
        assert [one["image_id"] for one in file["move"]] == [image]
        assert (file["rename"], file["merge"]) == ({"0": "cats"}, [[0, 3]])


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow(3))])
def test_everything_has_a_name_and_fits_a_phone(browser, page, scheme):
    with opened(browser, page, width=375, color_scheme=scheme) as tab:
        merge(tab, 2, 3)
        tool(tab, 0, "split").click()
        tool(tab, 5, "reject").click()
        assert not scrolls_sideways(tab)
        assert grave_faults(tab) == []
        tool(tab, 1, "merge").click()
        assert grave_faults(tab) == []
        tab.keyboard.press("Escape")
        tab.click("#class-1 .cover")
        tab.click("#sheet button:text-is('Select images')")
        tab.locator("#sheet .tiles button").first.click()
        assert grave_faults(tab) == []
        tab.click("#corrections button:text-is('Done')")
        tab.click("#corrections .total")
        assert grave_faults(tab) == []
        assert not scrolls_sideways(tab)


def test_any_order_of_decisions_gives_a_valid_file(browser, whose):
    """A thousand random actions, some undone: each file keeps the page's rules, and opening it changes nothing."""
    trial = """([source, run]) => {
      const part = new Function(`"use strict"; ${source}; return { makeDecisions, readDecisions };`);
      const { makeDecisions, readDecisions } = part();
      const name = (label) => (label === 2 ? "two" : "");
      const original = { name, label: (id) => id % run.classes, size: () => 30, part: 10 };
      const make = () => makeDecisions(run, original, () => {});
      let seed = 1;
      const any = (below) => (seed = (seed * 48271) % 2147483647) % below;
      const decisions = make();
      const steps = {
        rename: () => ({ type: "rename", label: any(6), name: ["", "cat ", "a\\u200b\\nb", "two"][any(4)] }),
        merge: () => ({ type: "merge", labels: [any(6), any(6)] }),
        split: () => ({ type: "split", label: any(6), parts: 1 + any(4) }),
        reject: () => ({ type: "reject", label: any(6) }),
        restore: () => ({ type: "restore", label: any(6) }),
        move: () => ({ type: "move", images: [{ image_id: any(30), key: "k" }], to: any(6) }),
      };
      const kinds = Object.keys(steps);
      const [faults, files] = [[], new Set()];
      let applied = 0;
      for (let round = 0; round < 1000; round += 1) {
        const step = steps[kinds[any(kinds.length)]]();
        try {
          applied += decisions.apply(step);
        } catch (error) {
          if (error instanceof TypeError) throw error;
        }
        if (!any(5)) decisions.undo();
        const text = JSON.stringify(decisions.document());
        files.add(text);
        const read = readDecisions(text, run, () => "");
        const again = make();
        if (!read.fault) again.apply({ type: "replace", decisions: read.decisions });
        const same = JSON.stringify(again.document()) === text;
        if (read.fault || read.gone.length || !same) faults.push([step, text, read]);
      }
      while (decisions.undo());
      return [faults.slice(0, 3), [...files], applied, decisions.count()];
    }"""
    with browser.new_page() as tab:
        faults, files, applied, left = tab.evaluate(trial, [DECISIONS.read_text(), whose["run"]])
    assert faults == []
    for text in files:
        shaped(Decisions, json.loads(text))
    assert applied > 500
    assert left == 0
