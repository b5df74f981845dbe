"""Image files below a folder or a bucket prefix."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.sources.base import Source, SourceError, tables_of
from icce_ray.io.sources.fetch import fetch
from icce_ray.io.sources.walk import select, walk

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


class FolderSource(Source):
    """Every file with an image's ending, recursively. The path below the folder is both uri and key.

    A dangling link is listed, without a size, so that reading it becomes a reject with a reason.
    """

    def files(self) -> Iterator[tuple[str, int | None]]:
        """The image files; see `Source.files`."""
        count = 0
        for path, size in select(walk(self.spec.location, self.left_out), IMAGE_EXTENSIONS, self.left_out):
            self.seen(path, size)
            count += 1
            yield path, size
        if not count:
            ignored = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.items()) or "nothing at all"
            raise SourceError(
                f"0 images in {self.spec.location!r} ({ignored}); file names looked for: "
                f"{', '.join('*' + ending for ending in IMAGE_EXTENSIONS)}"
            )

    def listing(self) -> Iterator[pa.Table]:
        """One row a file."""
        return tables_of((path, path, size, None, None) for path, size in self.files())

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """The file's bytes, in one request."""
        for uri in rows["uri"].to_pylist():
            yield fetch(self.spec.location, uri, max_bytes=max_bytes)
