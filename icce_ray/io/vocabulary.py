"""Words that classes may be named by: a text file, or the nouns of WordNet where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from icce_ray.documents import shown
from icce_ray.io.locations import StorageError, retried
from icce_ray.io.stores import info, read_whole, resolve

WORDNET = "wordnet-nouns"
#: Words, bytes of a file, letters of a word.
MOST_WORDS, _MOST_BYTES, LONGEST_WORD = 1_000_000, 64 << 20, 200
_REMEDY = "or give any text file with one word or phrase a line"


def read_vocabulary(what: str) -> list[str]:
    """Words in their order, each once in whatever case, without blank lines.

    `what` is a text file in UTF-8, one word or phrase a line, or WORDNET. Raises StorageError for anything else.
    """
    words = list(_once(_wordnet() if what == WORDNET else _lines(what)).values())
    if not 2 <= len(words) <= MOST_WORDS:
        raise StorageError(
            f"--vocabulary {shown(what, 300, plain=True)} has {len(words):,} different words; give 2 to {MOST_WORDS:,}"
        )
    return words


def _once(words: Iterable[str]) -> dict[str, str]:
    """Words by how they read in small letters; of several the first."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.casefold(), word)
    return found


def _lines(what: str) -> list[str]:
    who = f"--vocabulary {shown(what, 300, plain=True)}"
    kind, size = info(what)
    if kind != "file":
        raise StorageError(
            f"{who}: {'no such file' if kind is None else 'no regular file'}; give a text file or {WORDNET}"
        )
    if (size or 0) > _MOST_BYTES:
        raise StorageError(f"{who} has {size:,} bytes; at most {_MOST_BYTES:,} are read")
    try:
        text = retried(lambda: read_whole(*resolve(what), most=_MOST_BYTES), what=who).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{who} is not UTF-8: {error.reason} at byte {error.start}; write it in UTF-8") from error
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_WORD or not line.isprintable():
            raise StorageError(
                f"{who}, line {number}: {shown(line)} is no word or phrase of up to {LONGEST_WORD} letters"
            )
    return [line for line in lines if line]


def _wordnet() -> list[str]:
    """Nouns of WordNet by whichever of nltk and wn has it here; neither downloads anything."""
    found = _nltk() or _wn()
    if not found:
        raise StorageError(
            f"--vocabulary {WORDNET} needs WordNet: pip install nltk, then python -m nltk.downloader wordnet (or pip "
            f"install wn, then python -m wn download oewn:2024); {_REMEDY}"
        )
    return sorted(word.replace("_", " ") for word in found)


def _nltk() -> set[str]:
    try:
        return set(importlib.import_module("nltk.corpus").wordnet.all_lemma_names("n"))
    except (ImportError, LookupError):  # not installed; installed without the corpus
        return set()


def _wn() -> set[str]:
    try:
        library = importlib.import_module("wn")
    except ImportError:
        return set()
    return {word.lemma() for word in library.words(pos="n", lang="en")}
