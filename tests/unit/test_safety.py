"""Nothing that is read is ever executed: no such call in the source, no such model accepted."""

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from icce_ray.backbones import BackboneError, describe_backbone, load_backbone
from icce_ray.io.locations import StorageError
from icce_ray.io.storage import Storage
from tests.failures import fails

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("icce_ray", "jobs") for path in (ROOT / folder).rglob("*.py"))
#: Calls by the end of their dotted name, so that `torch.load` and `import torch as t; t.load` differ only in the rule.
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
}
CALLS |= {"joblib.load", "shelve.open", "marshal.loads", "torch.hub.load"}
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FLAGS = {
    "allow_pickle": True,
    "trust_remote_code": True,
    "shell": True,
    "weights_only": False,
    "use_safetensors": False,
}


def dotted(node):
    """`a.b.c` of a name or attribute, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def said(call, flag, value):
    return any(
        word.arg == flag and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def safe_yaml(call, tree):
    """Whether it is `yaml.load` by a class of the same source that is a `yaml.SafeLoader`."""
    safe = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and list(map(dotted, node.bases)) == ["yaml.SafeLoader"]
    }
    return dotted(call.func) == "yaml.load" and any(
        word.arg == "Loader" and dotted(word.value) in safe for word in call.keywords
    )


def dangers(source):
    """What in a source may execute what it reads."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else []
            found += [name for name in names if name.split(".")[0] in MODULES or name in CALLS]
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS and not safe_yaml(node, tree):
                found.append(name)
            found += [f"{flag}={value}" for flag, value in FLAGS.items() if said(node, flag, value)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_executes_what_it_reads(path):
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle.loads"),
        ("import joblib.memory", "joblib.memory"),
        ("from torch import load", "torch.load"),
        ("def f():\n    return [torch.load(path) for path in paths]", "torch.load"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
        ("AutoModel.from_pretrained(name, use_safetensors=False)", "use_safetensors=False"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("yaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
        ("os.system(text)", "os.system"),
        ("subprocess.run(text, shell=True)", "shell=True"),
    ],
)
def test_the_rules_catch(source, says):
    assert says in dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "yaml.safe_load(text)",
        "json.load(file)",
        "model.eval()",
        "np.load(path, mmap_mode='r', allow_pickle=False)",
        "safetensors.torch.load(data)",
        "re.compile(pattern)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
    ],
)
def test_the_rules_let_through(source):
    assert dangers(source) == []


# -- models ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    """A tiny model's directory, as safetensors."""
    config = Dinov2Config(image_size=14, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, patch_size=7)
    Dinov2Model(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def described(folder):
    return describe_backbone(str(folder), "cls", n_last_blocks=1, image_size=14)


def loaded(folder):
    return load_backbone(describe_backbone(str(folder), "cls", image_size=14))


class Trap:
    """Its pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_model_itself_is_accepted(model):
    assert loaded(model).info.dim == described(model).dim == 8


@pytest.mark.parametrize("kind", ["dinov2", "of-its-own"])
def test_code_of_a_model_is_not_executed(model, tmp_path, kind):
    trap = tmp_path / "executed"
    (model / "evil.py").write_text(
        f"open({str(trap)!r}, 'w').close()\n"
        "from transformers import Dinov2Config as Config, Dinov2Model as Model\n"
        "class EvilConfig(Config):\n    model_type = 'of-its-own'\n"
        "class EvilModel(Model):\n    config_class = EvilConfig\n"
    )
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": kind, "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
    (model / "config.json").write_text(json.dumps(config))
    for use in (described, loaded):
        with fails(BackboneError, "code of its own", "use a model"):
            use(model)
    assert not trap.exists()


def test_weights_in_a_pickle_are_not_read(model, tmp_path):
    trap = tmp_path / "executed"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
    for use in (described, loaded):
        with fails(BackboneError, "model.safetensors", "local directory"):
            use(model)
    assert not trap.exists()


def test_an_index_that_names_a_pickle_is_refused(model, tmp_path):
    trap = tmp_path / "executed"
    (model / "model.safetensors").unlink()
    torch.save(Trap(trap), model / "part-1.bin")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layernorm.weight": "part-1.bin"}}))
    for use in (described, loaded):
        with fails(BackboneError, "'part-1.bin'", "1 such files", "safetensors"):
            use(model)
    assert not trap.exists()


def test_a_pickle_under_the_name_of_safetensors_is_not_read(model, tmp_path):
    trap = tmp_path / "executed"
    torch.save(Trap(trap), model / "model.safetensors")
    with fails(BackboneError, "cannot be loaded"):
        loaded(model)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.safetensors").write_bytes(pickle.dumps(Trap(trap)))
    with fails(StorageError, "not a safetensors file"):
        Storage(str(tmp_path / "run")).read_tensors("weights.safetensors")
    assert not trap.exists()


def test_the_trap_works(tmp_path):
    trap = tmp_path / "executed"
    pickle.loads(pickle.dumps(Trap(trap)))  # noqa: S301, it shows that the tests above can fail
    assert trap.exists()
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert list(Storage(str(tmp_path)).read_tensors("plain.safetensors")) == ["a"]
