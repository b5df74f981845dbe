"""Files of a pretrained model: from a local directory, the local cache or the model hub.

Weights are read from safetensors only, and no code of a model is executed. Whatever is missing is found here, before
any work, with what to do about it.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError
from transformers.utils.hub import cached_file

from icce_ray.backbones import PUBLISHED, BackboneError
from icce_ray.documents import parse_json, shaped, shown
from icce_ray.io.stores import HeaderError, parsing
from icce_ray.spelling import did_you_mean

KNOWN = tuple(PUBLISHED)
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
#: Of what came with the model's images: as image processors save it, and as the processors of images and text do.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
REMEDY = "give a local directory with config.json and model.safetensors, or use the backbone 'hog', which needs none"

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")  # a path such as ./model is none
_QUIET: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


@dataclass(frozen=True)
class ModelFiles:
    """A model whose files can be had.

    source: an absolute directory, or the id on the hub.
    config: content of config.json.
    processor: what says how its images are prepared; empty where nothing does.
    """

    source: str
    config: dict[str, Any]
    processor: dict[str, Any]

    def here(self, file: str) -> str:
        """Path of one of its files on this machine, fetched if need be. Raises OSError for one that it has not."""
        return _cached(self.source, file) or hf_hub_download(self.source, file)

    def weights(self) -> list[str]:
        """Paths of the weights' files on this machine, fetched if need be."""
        index = _content(_cached(self.source, INDEX))
        return [self.here(file) for file in (sorted(set(index["weight_map"].values())) if index else [WEIGHTS])]

    def model(self, **options: Any) -> tuple[Any, list[str]]:
        """The model of `AutoModel` in float32, and the names of weights that the checkpoint lacks.

        transformers fills those at random, which would give plausible nonsense. Raises HeaderError, OSError,
        RuntimeError or ImportError for weights that cannot be loaded.
        """
        import torch  # here: what only describes a model needs neither
        from transformers import AutoModel

        with parsing():
            model, report = AutoModel.from_pretrained(
                self.source,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **options,
            )
        return model, sorted(report["missing_keys"])


def find_model(name: str) -> ModelFiles:
    """The files of a local directory or a hub id whose weights can be had. Raises BackboneError for all others."""
    path = Path(name).expanduser()
    if path.is_dir():
        missing = CONFIG if not (path / CONFIG).is_file() else None
        if missing is None and not any((path / weights).is_file() for weights in (WEIGHTS, INDEX)):
            missing = WEIGHTS
        if missing:
            raise BackboneError(f"the directory {name!r} has no {missing}; {REMEDY}")
        return _read(name, str(path.absolute()))
    if path.exists() or not _HUB_ID.match(name):
        raise BackboneError(
            f"backbone {name!r} is neither 'hog', nor a directory, nor a model id; {meant(name)}"
            f"known ids: {', '.join(KNOWN)}; models of timm: timm:NAME; {REMEDY}"
        )
    cached = bool(_cached(name, CONFIG) and (_cached(name, WEIGHTS) or _cached(name, INDEX)))
    if not cached:
        if not hub_is_reachable():
            raise BackboneError(
                f"backbone {name!r} is no local directory, not in the local cache, and the model hub cannot be reached "
                f"from here; {meant(name)}{REMEDY}"
            )
        _fetch_descriptions(name)
    return _read(name, name)


def meant(name: str) -> str:
    """The model that a mistyped name was meant to be; nothing for one that is there, or like none."""
    return "" if name in KNOWN else did_you_mean(name, ("hog", *KNOWN))


def _fetch_descriptions(name: str) -> None:
    """Put what describes a model of the hub into the cache. Raises BackboneError for one that cannot be had."""
    try:
        hf_hub_download(name, CONFIG)
        for file in (*PROCESSORS, INDEX):
            try:
                hf_hub_download(name, file)
            except RemoteEntryNotFoundError:
                continue  # most models have one of them
        if not any(HfApi().file_exists(name, file) for file in (WEIGHTS, INDEX)):
            raise BackboneError(f"backbone {name!r} has no {WEIGHTS}, and only safetensors are read; {REMEDY}")
    except GatedRepoError as error:
        raise BackboneError(
            f"backbone {name!r} is gated: accept its licence at https://huggingface.co/{name}, then set HF_TOKEN to a "
            "token of that account, on every machine of the run; or download it there and give the local directory"
        ) from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"the model hub has no model {name!r}, or none that is public; {meant(name)}check its name, set HF_TOKEN "
            f"if it is private, or {REMEDY}"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise BackboneError(f"backbone {name!r} has no {CONFIG} on the model hub; {REMEDY}") from error
    except OSError as error:  # of HTTP and of the connection
        reason = shown(" ".join(str(error).split()), 300, plain=True)
        raise BackboneError(f"backbone {name!r} cannot be fetched from the model hub ({reason}); {REMEDY}") from error


def _read(name: str, source: str) -> ModelFiles:
    try:
        with parsing():
            config, index = _content(_cached(source, CONFIG)), _content(_cached(source, INDEX))
            processor = next((content for file in PROCESSORS if (content := _content(_cached(source, file)))), {})
            files = set(shaped(dict[str, str], index.get("weight_map", {})).values())
    except (HeaderError, OSError) as error:
        raise unreadable(name, error) from error
    _refuse_code(name, config, files)
    return ModelFiles(source, config, processor.get("image_processor", processor))


def unreadable(name: str, error: Exception) -> BackboneError:
    """The error of a configuration that cannot be read."""
    reason = shown(" ".join(str(error).split()), 300, plain=True)
    return BackboneError(f"the configuration of backbone {name!r} cannot be read ({reason}); {meant(name)}{REMEDY}")


def _cached(source: str, file: str) -> str | None:
    return cached_file(source, file, local_files_only=True, **_QUIET)


def _content(path: str | None) -> dict[str, Any]:
    return shaped(dict[str, Any], parse_json(Path(path).read_bytes())) if path else {}


def _refuse_code(name: str, config: dict[str, Any], files: set[str]) -> None:
    """Raise BackboneError for code, which transformers would not execute here, but replace in silence by its own.

    It is a model's own, or that of weights that are pickles.
    """
    pickled = sorted(file for file in files if not file.endswith(".safetensors"))
    if "auto_map" in config:
        raise BackboneError(
            f"backbone {name!r} asks for code of its own to be executed (auto_map in its config.json), which is never "
            f"done here; use a model that transformers itself implements, such as {KNOWN[2]}"
        )
    if pickled:
        raise BackboneError(
            f"backbone {name!r} keeps weights in {pickled[0]!r} ({len(pickled)} such files), and only safetensors are "
            f"read; {REMEDY}"
        )


def hub_is_reachable() -> bool:
    """One request of at most five seconds; transformers itself would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answers
    except OSError:
        return False
