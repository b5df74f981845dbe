"""Untrusted text on a terminal: legible, and without control sequences."""

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from icce_ray.progress import RunProgress
from icce_ray.terminal import EXIT_PIPE, Terminal, visible

#: Names that a file may have, and how they are shown.
HOSTILE = {
    "m/[/x]": "m/[/x]",
    "photos[final]": "photos[final]",
    "[red]:x: :smile:": "[red]:x: :smile:",
    "\x1b[31mred\x07\x9b0m": "\\x1b[31mred\\x07\\x9b0m",
    "two\nlines\tand\r": "two\\nlines\\tand\\r",
    os.fsdecode(b"caf\xe9.png"): "caf\\udce9.png",
    "gnp\u202eexe.": "gnp\\u202eexe.",
    "日本語 é 👩‍👧 \u202f": "日本語 é 👩‍👧 \u202f",
}


@pytest.mark.parametrize(("name", "shown"), HOSTILE.items(), ids=map(ascii, HOSTILE))
def test_a_name_is_shown_as_it_is_wherever_it_stands(name, shown):
    assert visible(name) == shown
    console = Terminal(file=io.StringIO(), width=200, color_system="truecolor", force_terminal=True)
    table = Table(name, title=name, box=None)
    table.add_row(name)
    console.print(table)
    console.print_line(name)
    console.print_lines(name)
    with RunProgress(console) as progress, progress.stage("embed") as stage:
        stage.begin(2, unit="images")
        stage.log(name)
        stage.update(1, now=name)
    text = console.file.getvalue()
    assert text.count(shown) >= 5
    assert name == shown or name not in text


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\xe9[/x] \\udcff"), ("latin-1", "é[/x] \\udcff"), ("utf-8", "é[/x] \\udcff")]
)
def test_what_the_encoding_cannot_show_is_escaped(encoding, shown):
    program = (
        "from icce_ray.terminal import Terminal, escape_unencodable; escape_unencodable()\n"
        "Terminal().print_line('\\xe9[/x] \\udcff')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode(encoding) == f"{shown}\n"


@pytest.mark.parametrize(("stream", "status"), [("stdout", EXIT_PIPE), ("stderr", 0)])
def test_a_reader_that_is_gone_ends_results_but_no_work(stream, status):
    program = (
        "from icce_ray.terminal import Terminal\n"
        f"console = Terminal(stderr={stream == 'stderr'})\n"
        "for _ in range(3): console.print_line('a line')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
    done = subprocess.run([sys.executable, "-c", program], check=False, **streams)
    os.close(writer)
    assert (done.returncode, done.stderr or b"") == (status, b"")


def test_a_table_that_goes_to_a_file_is_as_wide_as_asked():
    assert Terminal(file=io.StringIO(), wide=160).width == 160
