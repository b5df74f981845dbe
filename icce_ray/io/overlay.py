"""Files of one root, some folders of which lie in another root and can only be read there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from icce_ray.io.storage import Storage, StorageError


class Overlay(Storage):
    """A `Storage` whose `folders` are those of the root `below`, less the files `own`; all else lies in its own root.

    Writing to those folders, and deleting them, is a StorageError: what lies below belongs to others too.
    """

    def __init__(
        self,
        root: str,
        below: str,
        folders: frozenset[str],
        own: frozenset[str] = frozenset(),
        *,
        remedy: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(root, **({} if remedy is None else {"remedy": remedy}))
        self._below, self._folders, self._own = Storage(below, remedy=self.remedy), folders, own

    def __reduce__(self) -> tuple[type[Storage], tuple[Any, ...]]:
        return Overlay, (self.root, self._below.root, self._folders, self._own)

    def _is_below(self, path: str) -> bool:
        return path.partition("/")[0] in self._folders and path not in self._own

    def full_path(self, path: str = "") -> str:
        """As of the root that holds it."""
        return self._below.full_path(path) if self._is_below(path) else super().full_path(path)

    def uri(self, path: str = "") -> str:
        """As of the root that holds it."""
        return self._below.uri(path) if self._is_below(path) else super().uri(path)

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """As of the root that holds the folder; without a prefix only what lies in its own root."""
        return self._below.list(prefix) if self._is_below(prefix) else super().list(prefix)

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Raises StorageError for a file that would lie below."""
        self._check_own(path)
        super().write_bytes(path, data)

    def delete(self, path: str) -> None:
        """Raises StorageError for a file that lies below."""
        self._check_own(path)
        super().delete(path)

    def delete_tree(self, path: str) -> None:
        """Raises StorageError for a folder that lies below."""
        self._check_own(path)
        super().delete_tree(path)

    def _check_own(self, path: str) -> None:
        if self._is_below(path):
            raise StorageError(
                f"{self.uri(path)} belongs to {self._below.root}, whose files {self.root} only reads; change them there"
            )
