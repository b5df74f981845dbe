"""Names that users give, as folders and files."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icce_ray.export.names import class_names, folder_names, safe_name

HOSTILE = {
    "cats": "cats",
    "cats & dogs": "cats _ dogs",
    "Äpfel": "Äpfel",
    unicodedata.normalize("NFD", "Äpfel"): "Äpfel",
    "\U0001f431": "\U0001f431",
    "../../x": "x",
    "/etc/passwd": "etc_passwd",
    "C:\\Users": "C_Users",
    "<script>alert(1)</script>": "script_alert(1)_script",
    "a\0b\nc": "a_b_c",
    "\u202egnp.exe": "gnp.exe",
    "__pycache__": "pycache",
    "-rf": "rf",
    "=1+1": "1+1",
    "＠sum": "sum",
    "nul": "nul_",
    "COM1.png": "COM1.png_",
    "a" * 300: "a" * 100,
    "ä" * 300: "ä" * 50,
    "train": "Train",
    "steam train 2-test": "steam Train 2-Test",
    "trainer Training contest": "trainer Training contest",
    "": "",
    "..": "",
    "/": "",
    " \t": "",
}


@pytest.mark.parametrize(("text", "name"), HOSTILE.items())
def test_safe_name(text, name):
    assert safe_name(text) == name


@settings(deadline=None)
@given(st.text(max_size=400))
@example("a" * 99 + " .b")
@example("CON")
def test_a_safe_name_is_one_visible_part_of_a_path(tmp_path_factory, text):
    name = safe_name(text)
    assert len(name.encode()) <= 101
    if name:
        assert not set(name) & set('/\\<>:"|?*\0\n')
        assert name == name.strip()
        assert name[0] not in ".-_=+@"
        assert safe_name(name).rstrip("_") == name.rstrip("_")
        path = tmp_path_factory.getbasetemp() / name
        assert path.resolve().parent == tmp_path_factory.getbasetemp().resolve()


def test_labels_without_a_name_have_their_number():
    assert class_names({1: "cats"}, 3) == ["class-000", "cats", "class-002"]
    assert class_names({}, 1001)[7] == "class-0007"
    assert class_names({0: "<script>"}, 1) == ["<script>"]


def test_folders_differ_in_any_case():
    names = {0: "Cat", 1: "cat", 2: "CAT", 3: "..", 5: "class-003", 6: "cat-001", 7: "Unreadable.csv"}
    found = folder_names(names, 8, taken=["unreadable.csv"])
    expected = ["Cat", "cat-001", "CAT-002", "class-003", "class-004", "class-003-005", "cat-001-006"]
    assert found == [*expected, "Unreadable.csv-007"]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 19), st.sampled_from(["a", "A", "a-001", "class-007", "class-007-007", "/", "ß", "SS"])
    )
)
def test_folders_always_differ(names):
    found = folder_names(names, 20)
    assert len({name.casefold() for name in found}) == 20
