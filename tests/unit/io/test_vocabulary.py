"""Words to name classes by: what a file may hold, and where WordNet's nouns come from."""

import sys
from types import SimpleNamespace

import pytest

from icce_ray.io.locations import StorageError
from icce_ray.io.vocabulary import WORDNET, read_vocabulary
from tests.failures import fails


def test_every_word_once_in_its_order(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffCat\n\n  red   panda \r\ncat\n犬\nRed Panda\n", encoding="utf-8")
    assert read_vocabulary(str(path)) == ["Cat", "red panda", "犬"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["0 different words", "2 to 1,000,000"]),
        (b"cat\nCat\n", ["1 different words"]),
        (b"cat\n\xff\n", ["UTF-8", "byte 4"]),
        (b"cat\n" + b"x" * 500, ["line 2", "200 letters"]),
        (b"cat\ndog\x00\n", ["line 2"]),
    ],
)
def test_files_that_are_no_vocabulary(tmp_path, content, says):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with fails(StorageError, f"--vocabulary {path}", *says):
        read_vocabulary(str(path))


def test_no_file(tmp_path):
    with fails(StorageError, "no such file", WORDNET):
        read_vocabulary(str(tmp_path / "gone.txt"))
    with fails(StorageError, "no regular file"):
        read_vocabulary(str(tmp_path))


class NoCorpus:
    """As nltk is without its data: the corpus is looked for at its first use."""

    def all_lemma_names(self, kind):
        raise LookupError("Resource wordnet not found")


def test_nouns_of_wordnet(monkeypatch):
    for name in ("nltk.corpus", "wn"):
        monkeypatch.setitem(sys.modules, name, None)
    with fails(StorageError, "nltk.downloader wordnet", "wn download", "one word or phrase a line"):
        read_vocabulary(WORDNET)
    monkeypatch.setitem(sys.modules, "nltk.corpus", SimpleNamespace(wordnet=NoCorpus()))
    with fails(StorageError, "nltk.downloader wordnet"):
        read_vocabulary(WORDNET)
    words = [SimpleNamespace(lemma=lambda: "dog"), SimpleNamespace(lemma=lambda: "cat")]
    monkeypatch.setitem(sys.modules, "wn", SimpleNamespace(words=lambda pos, lang: words))
    assert read_vocabulary(WORDNET) == ["cat", "dog"]
    corpus = SimpleNamespace(all_lemma_names=lambda kind: ["red_panda", "cat"] if kind == "n" else [])
    monkeypatch.setitem(sys.modules, "nltk.corpus", SimpleNamespace(wordnet=corpus))
    assert read_vocabulary(WORDNET) == ["cat", "red panda"]
