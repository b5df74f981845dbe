"""Models of the hub, asked of a server that answers as it does: what cannot be had is an error before any work."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from icce_ray.backbones import BackboneError, describe_backbone, load_backbone
from tests.failures import fails

#: What the hub says of a repository: status and error code.
REFUSED = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "gone": (404, "RepoNotFound")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def asked(weights, tmp_path, monkeypatch):
    """Paths that a hub with `some/model`, `some/pickled` and the refused ones was asked for; the cache is empty."""
    paths = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            repository, _, file = self.path.strip("/").partition("/resolve/main/")
            repository = repository.removeprefix("api/models/").partition("/revision")[0]
            found = weights / file if file else None
            if repository == "some/pickled" and file == "model.safetensors":
                found = weights / "nowhere"
            if repository.partition("/")[0] in REFUSED:
                status, code, data = *REFUSED[repository.partition("/")[0]], b""
            elif self.path == "/":
                status, code, data = 200, "", b""
            elif found is None or not found.is_file():
                status, code, data = 404, "EntryNotFound", b""
            else:
                status, code, data = 200, "", found.read_bytes()
            self.send_response(status)
            headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{hash(self.path) & 0xFFFFFF:x}"', "X-Error-Code": code}
            for name, value in (headers | {"Content-Length": len(data)}).items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    cache = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    for name, value in {"ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template, **cache}.items():
        monkeypatch.setattr(constants, name, value)
    yield paths
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("gated/model", ["gated", "huggingface.co/gated/model", "HF_TOKEN", "local directory"]),
        ("private/model", ["private/model", "HF_TOKEN", "local directory"]),
        ("gone/model", ["gone/model", "check its name"]),
        ("some/pickled", ["model.safetensors", "safetensors"]),
    ],
)
def test_what_cannot_be_had(asked, name, facts):
    with fails(BackboneError, *facts):
        describe_backbone(name)
    assert not any("model.safetensors" in path for path in asked if "pickled" not in path)


def test_a_model_is_described_without_its_weights_and_loaded_with_them(asked):
    info = describe_backbone("some/model")
    assert (info.dim, info.image_size, info.features) == (8, 16, "cls")
    assert load_backbone(info).info == info
    before = len(asked)
    assert describe_backbone("some/model") == info
    assert len(asked) == before, "what is in the cache is not asked for again"
