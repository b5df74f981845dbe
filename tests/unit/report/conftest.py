"""Made-up runs: every file that the page reads."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.made_run import make_run, pictures

#: Names that would end an element, an attribute or a script, if they were ever taken for markup.
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">.jpg",
    "\"quotes'&amp;.jpg",
    "😀 ünïcode \u202egpj.exe",
    "{{ 7 * 7 }}${7*7}",
    "-->",
)


def source_of(folder, images, names=()):
    """A Parquet source whose keys begin with `names`."""
    folder.mkdir(parents=True)
    keys = [*names, *(f"{row:05d}.jpg" for row in range(len(names), images))]
    files = pictures(20, 48, seed=1)
    pq.write_table(
        pa.table({"key": keys, "image": [files[row % 20] for row in range(images)]}), folder / "images.parquet"
    )
    return str(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A run of 600 images in 7 classes, with rejects, an alarm and hostile names; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("made")
    source = source_of(folder / "images", 600, HOSTILE)
    return make_run(
        str(folder / "run"), source, clusters=7, heads=5, epochs=20, rejects=10, alarms=["2 <b>heads</b> stopped"]
    )
