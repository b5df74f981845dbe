"""Whether the files of complete stages are still those that the stages wrote, before work is built on them."""

from __future__ import annotations

from icce_ray.store.markers import RunError
from icce_ray.store.run import Store
from icce_ray.store.versions import check_version


def check_files(store: Store, *stages: str) -> None:
    """Raise RunError if a file of these stages, where complete, is missing or has another length than it had.

    One listing a folder, and nothing is read: whatever was cut or exchanged is named before work starts.
    RunError too for a version whose run was repeated since.
    """
    check_version(store)
    for stage in stages:
        marker = store.marker(stage)
        written = {} if marker is None else {info.path: info.bytes for info in marker.files}
        folders = {path.split("/", maxsplit=1)[0] for path in written}
        there = {path: size for folder in folders for path, size in store.storage.list(folder)}
        wrong = [path for path, size in written.items() if there.get(path) != size]
        if wrong:
            state = f"has {there[wrong[0]]:,} bytes" if wrong[0] in there else "is missing"
            more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
            raise RunError(
                f"{store.storage.uri(wrong[0])} {state}; stage {stage} wrote {written[wrong[0]]:,}{more}; "
                f"{store.remedy(wrong[0])}"
            )


def check_content(store: Store, stage: str, *paths: str) -> None:
    """Raise RunError unless the stage is complete and these files of it hold what it wrote; they are read."""
    written = {info.path: info for info in store.require(stage).files}
    for path in paths:
        try:
            same = store.storage.describe(path) == written.get(path)
        except FileNotFoundError:
            same = False
        if not same:
            raise RunError(f"{store.storage.uri(path)} is not what stage {stage} wrote; {store.remedy(path)}")
