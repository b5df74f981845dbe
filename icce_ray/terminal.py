"""Text on standard output and standard error: our own words beside names, paths and errors of others."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

#: Control characters, line and paragraph separators, the marks that turn the direction of what follows, and bytes of a
#: file's name that are no UTF-8 (lone surrogates).
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Exit status of a command whose reader is gone, as of a process that SIGPIPE ends.
EXIT_PIPE = 141


def visible(text: str) -> str:
    """`text` in one line that does nothing to a terminal: what cannot be seen is escaped, such as `\\x1b`."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


class Terminal(Console):
    """rich's console, but text is shown as it is: no markup, no emoji, no highlighting, nothing unseen.

    Takes the options of `rich.console.Console`. `wide` is the width of tables where the output is no terminal, which
    has its own.
    """

    def __init__(self, *, wide: int | None = None, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if wide is not None and not self.is_terminal:
            self.width = wide

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text that is printed, cells of tables included, comes through here."""
        return super().render_str(visible(text), **options)

    def print_line(self, text: str) -> None:
        """One line, never wrapped or cut."""
        self.print(text, soft_wrap=True)

    def print_lines(self, text: str) -> None:
        """As many lines as the text has."""
        for line in text.split("\n"):
            self.print_line(line)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: of results that ends the command, of progress and messages it does not."""
        self.quiet = True
        stream = sys.stderr if self.stderr else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not self.stderr:
            raise SystemExit(EXIT_PIPE)


def escape_unencodable() -> None:
    """Let what the encoding of standard output has no character for be escaped there, as on standard error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
