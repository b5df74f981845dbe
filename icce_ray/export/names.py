"""Names of classes, as a CSV file gives them, and as folders and files can bear them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from icce_ray.documents import shown
from icce_ray.io.user_tables import read_user_table
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASS_NAMES, GUESS

COLUMNS = ("label", "name")
_NUMBER = re.compile(r"[0-9]{1,18}")

#: Bytes of a name that was made from a longer one; file systems take 255, of which numbers and endings need some.
_LONGEST = 100
# What a path, Windows or a shell takes for something else. Marks of the other kind, invisible ones, go by category.
_RESERVED = re.compile(r'[/\\<>:"|?*%\'`$;&#]+')
# Readers of image folders skip what is hidden, and spreadsheets run what looks like a formula.
_NEVER_FIRST = "._- =+@＝＋－＠"
_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Hugging Face's `imagefolder` takes folders and files with these words in small letters for splits, and drops the rest.
_SPLITS = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)


def chosen_names(store: Store, given: str | None, classes: int, log: Callable[[str], None]) -> dict[int, str] | None:
    """Names of the file `given`, else those that `icce name` has guessed for the labels of this run or prediction.

    None where there are neither; guesses for earlier labels do not count, which is logged. Raises as `read_names`.
    """
    if given is not None:
        return read_names(given, classes)
    run, labelling = store, None
    if store.holds_prediction():
        content = store.prediction_file()
        run, labelling = Store(str(content["run"])), content["classifier"]
    if not run.storage.exists(CLASS_NAMES):
        return None
    labelling = labelling or run.require("classifier").fingerprint
    file = run.storage.uri(CLASS_NAMES)
    if set(read_user_table("names", file, needs=("labelling",))["labelling"].to_pylist()) != {labelling}:
        log(f"{file} was made for other labels than those of now, and is left out; run icce name again")
        return None
    return read_names(file, classes)


def read_names(path: str, classes: int) -> dict[int, str]:
    """Name of each label that the file `path`, CSV or Parquet with columns label and name, gives one.

    Where a column `source` says that a name is a guess, as in the file of `icce name`, it ends with a question mark.
    Raises StorageError as `read_user_table` does, and RunError for a label that is no whole number from 0 to
    `classes` - 1 or is there twice.
    """
    table = read_user_table("--names", path, needs=COLUMNS, also=("source",))
    names: dict[int, str] = {}
    sources = table["source"].to_pylist() if "source" in table.column_names else [None] * len(table)
    given_names = (table[column].to_pylist() for column in COLUMNS)
    for row, (given, name, source) in enumerate(zip(*given_names, sources, strict=True), 1):
        text = str(given).strip()
        label = int(text) if _NUMBER.fullmatch(text) else -1
        if not 0 <= label < classes:
            raise RunError(f"--names {path}, row {row}: label = {shown(given)}; give one from 0 to {classes - 1}")
        if label in names:
            raise RunError(f"--names {path}, row {row}: label {label} is there twice; give each one name")
        names[label] = "" if name is None else str(name)
        if names[label] and source == GUESS:
            names[label] += "?"
    return names


def class_names(names: dict[int, str], classes: int) -> list[str]:
    """A name for each of `classes` labels: the given one, else `class-007`, as wide as the last label needs."""
    return [names.get(label) or f"class-{_padded(label, classes)}" for label in range(classes)]


def distinct(names: Sequence[str]) -> list[str]:
    """`names` of all classes, with the label behind each that comes a second time."""
    found: dict[str, None] = {}
    for label, name in enumerate(names):
        text = name
        while text in found:
            text = f"{text}-{_padded(label, len(names))}"
        found[text] = None
    return list(found)


def folder_names(names: dict[int, str], classes: int, taken: Iterable[str] = ()) -> list[str]:
    """A folder for each of `classes` labels, as `class_names` but safe (`safe_name`) and all different, in any case.

    Where a name comes a second time, or is one of `taken`, the label is put behind it.
    """
    taken = {name.casefold() for name in taken}
    folders = []
    for label, plain in enumerate(class_names({}, classes)):
        folder = safe_name(names.get(label) or "") or plain
        while folder.casefold() in taken:
            folder = f"{folder}-{_padded(label, classes)}"
        taken.add(folder.casefold())
        folders.append(folder)
    return folders


def safe_name(text: str) -> str:
    """`text` as a name below a folder on any system, of at most 100 bytes; "" where nothing of it can be one.

    Letters, digits and pictures of all scripts stay. What is reserved or invisible becomes `_`; leading dots, hyphens
    and the like go (_NEVER_FIRST); the words `train` and `test` get capitals.
    """
    seen = "".join("_" if unicodedata.category(one)[0] == "C" else one for one in unicodedata.normalize("NFC", text))
    name = _RESERVED.sub("_", " ".join(seen.split())).lstrip(_NEVER_FIRST)
    name = name.encode()[:_LONGEST].decode(errors="ignore").rstrip("._- ")
    name = _SPLITS.sub(lambda word: word[0].capitalize(), name)
    return f"{name}_" if _WINDOWS.fullmatch(name) else name


def _padded(label: int, classes: int) -> str:
    return f"{label:0{max(3, len(str(classes - 1)))}d}"
