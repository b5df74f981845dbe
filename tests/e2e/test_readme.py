"""Every command of the README and of docs/: run here as written, or in a table with where, or why it cannot be.

The reader's folders are tiny here, DINOv2 is one with random weights, and trainings are short: settings under those
that a command gives. All commands share a run and a local Ray.
"""

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from transformers import Dinov2Config, Dinov2Model

import icce_ray
from icce_ray import settings
from icce_ray.cli.main import app
from icce_ray.core.alarms import CollapseWarning
from icce_ray.settings.sweep import Sweep, trials

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
#: What a reader may copy a command from; features.md is a table of tests.
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "features")]
TINY = [
    "heads.heads=3",
    "heads.hidden=16",
    "heads.bottleneck=8",
    "heads.epochs=2",
    "heads.warmup_epochs=0",
    "heads.batch_size=40",
    "classifier.iterations=20",
    "classifier.batch_size=40",
    "neighbors.k_min=5",
]
#: Run here, in this order, after the README's Python, whose run they find complete.
RUN = [
    "icce run photos/ --clusters 20 --backbone facebook/dinov2-base --out runs/photos",
    "icce report runs/photos",
    "icce status runs/photos",
    "icce predict runs/photos new-photos/ --out runs/photos-new",
    "icce evaluate runs/photos --labels truth.csv --kmeans",
    "icce verify runs/photos",
    "icce export runs/photos --format csv --out photos.csv",
    "icce export runs/photos --format imagefolder --out sorted",
    "icce plan --images 1000000000 --model facebook/dinov2-large --gpus 8 --gpu-type h200",
    "icce sweep --help",
]
FORMS, SWEEPS = "tests/integration/test_forms.py", "tests/integration/test_sweep.py"
SPACES, EXPORTS = "tests/integration/test_spaces.py", "tests/unit/export"
FINDINGS = "tests/integration/test_inspect_findings.py"
HAND = "a study of minutes to hours, run by hand: its figures in the README and in jobs/bench/RESULTS.md"
AWS, INSTALLS = "needs AWS; tests/unit/test_deploy.py", "changes the environment; tests/unit/test_packaging.py"
#: Command, or how it begins, and where it is run or why it is not. `icce` and jobs/ are parsed here in any case.
ELSEWHERE = {
    "make demo": "tests/e2e/test_demo.py, and .ci/run",
    "make test": ".ci/run",
    "make test-all": "an hour; .ci/run runs a quarter of what make test has not",
    "make bench": "ten minutes; " + HAND,
    "icce run scans/ --clusters 10 --backbone hog --out runs/scans": "tests/e2e/test_commands.py",
    "icce run s3://bucket/photos -k 20 --out RUN": FORMS,
    "icce run s3://bucket/shards/ -k 20 --out RUN": FORMS,
    "icce run crawl/ --format img2dataset -k 20 --out RUN": FORMS,
    "icce run train.parquet -k 20 --out RUN": FORMS,
    "icce run photos.lance -k 20 --out RUN": FORMS,
    "icce run list.txt -k 20 --out RUN": FORMS,
    "icce refine ": "tests/integration/test_refine.py",
    "icce run photos/ --clusters 20 --backbone facebook/vit-mae-base": "tests/integration/test_backbones.py",
    "icce run photos/ --clusters 20 --backbone weights/dinov3": "tests/integration/test_backbones.py",
    "icce run photos/ --clusters 20 --backbone facebook/dinov2-base --backbone hog": SPACES,
    "icce run features.parquet --clusters 20 --set list.column=hog,effnet": SPACES,
    "icce run features/ --clusters 20 --set list.column=hog,effnet": SPACES,
    "icce predict runs/features new.parquet": SPACES,
    "icce run photos/ --clusters 20 --out runs/photos": "with --backbone above",
    "icce run s3://bucket/images -k 1000": "tests/integration/test_embed.py",
    "icce run train/ -k 20 --out RUN": FORMS,
    "icce run photos --clusters 10 --out runs/photos --set inspect.duplicates=0.85": FINDINGS,
    "icce export RUN --format FORMAT --out OUT": EXPORTS,
    "icce export RUN --format datasets --out labelled": FORMS,
    "icce export RUN --format lance --out labelled.lance": FORMS,
    "icce export runs/photos --format imagefolder --names names.csv": EXPORTS,
    "icce export runs/photos --format atlas": "tests/unit/export/test_atlas.py",
    "icce export runs/photos --format onnx": "tests/unit/export/test_predictors.py",
    "icce export runs/photos --format duplicates": FINDINGS,
    "icce export runs/photos --format outliers": FINDINGS,
    "icce export runs/photos --format quality": FINDINGS,
    "icce export runs/photos --format label-issues": FINDINGS,
    "icce export runs/photos --superclasses 10": "tests/unit/export/test_superclasses.py",
    "icce export runs/photos --version 1": "tests/integration/test_refine.py",
    "icce export runs/photos --out photos.csv": EXPORTS,
    "icce evaluate runs/photos --labels labels.csv": FINDINGS,
    "icce evaluate RUN --labels FILE": FINDINGS,
    "icce update ": "tests/integration/test_updates.py",
    "icce name runs/photos --vocabulary words.txt": "tests/integration/test_naming.py",
    "icce report runs/photos --names": "tests/unit/report/test_page.py",
    "icce predict runs/photos new-photos/ --out new --version 1": "tests/integration/test_refine.py",
    "icce plan --images 1000000000 --gpus 8": "with --model above",
    "icce verify RUN": "tests/unit/store/test_verify.py",
    "python jobs/paper.py": HAND,
    "python -m nltk.downloader": "fetches WordNet; tests/unit/io/test_vocabulary.py",
    "icce run features.npy -k 20 --out RUN": FORMS,
    "icce run 's3://bucket/photos?endpoint_override=": "tests/integration/test_kills.py",
    "icce sweep runs/photos --param neighbors.threshold=0.1:1.0:0.1": SWEEPS,
    "icce sweep runs/photos --param clusters=10:90:20 --param heads.ce_weight=0,0.5,1 --labels truth.csv": SWEEPS,
    "icce run mnist/ --clusters 10 --config mnist.yaml --out runs/mnist --until neighbors": HAND,
    "icce sweep runs/mnist --param neighbors.threshold=0.45:0.9:0.05 --labels mnist.csv": HAND,
    "icce run mnist/ --clusters 10 --backbone hog --set embed.features=hog --out runs/mnist": HAND,
    "icce evaluate runs/mnist --labels mnist.csv --kmeans": HAND,
    "ray job submit --working-dir .": "tests/integration/test_jobs.py",
    "RAY_AUTH_MODE=token ray job submit --address http://localhost:8265": "tests/integration/test_jobs.py",
    "ray get-auth-token --generate": AWS,
    "ray up cluster.yaml": AWS,
    "ray dashboard cluster.yaml": AWS,
    "ray down cluster.yaml": AWS,
    "kubectl create -f jobs/rayjob.yaml": "needs Kubernetes; tests/unit/test_deploy.py",
    "pip ": INSTALLS,
    "pytest tests/numerics/test_parallel.py": "tests/numerics/test_parallel.py",
    "python jobs/bench/gpu_day.py": "tests/e2e/test_gpu_dry_run.py, and on a GPU tests/gpu/test_on_gpu.py",
    "python jobs/bench/": HAND,
    "icce doctor --cluster": "tests/integration/test_gpus.py",
    "make docs": "tests/unit/test_site.py",
}
PROGRAM = r"(?:[A-Z_]+=\S+ )*(?:icce|make|python|ray|pip|pytest|kubectl) "


def _blocks():
    """Lines of prose and of command blocks, which are indented or fenced without a language, of all pages."""
    prose, commands, fence = [], [], None
    for line in "\n".join(PAGES).replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence is None and not line.startswith("    "):
            prose.append(line)
        elif not fence:
            commands.append(line.strip())
    return prose, commands


def commands():
    """Commands on lines of their own, and those in backticks that say more than a command's name."""
    prose, lines = _blocks()
    lines, prose = [line.split(" # ")[0].strip() for line in lines], "\n".join(prose)
    inline = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    names = {f"icce {name}" for name in (*typer.main.get_command(app).commands, "--help")} | {"ray job submit"}
    names |= {"ray dashboard"}
    found = [" ".join(one.removeprefix(".venv/bin/").split()) for one in (*lines, *inline)]
    return [one for one in dict.fromkeys(found) if re.match(PROGRAM, one) and one not in names]


def test_every_command_is_run_or_named():
    """A new one has to be put into RUN or ELSEWHERE; one that has left the README, out of them."""
    found = commands()
    assert len(found) > 40
    unknown = [one for one in found if one not in RUN and not one.startswith(tuple(ELSEWHERE))]
    assert unknown == []
    assert [one for one in (*RUN, *ELSEWHERE) if not any(each.startswith(one) for each in found)] == []


def test_where_they_are_run_exists():
    named = {path for where in ELSEWHERE.values() for path in re.findall(r"(?:tests/|jobs/|\.ci/)[\w./]+\w", where)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert len(named) >= 9


def icce_words(command):
    """The arguments of `icce` in a command, also where a job's script stands for it; None in others."""
    words = shlex.split(command)
    script = next((word for word in words if re.fullmatch(r"jobs/\w+\.py", word)), None)
    if script is not None and Path(script).stem in typer.main.get_command(app).commands:
        return [Path(script).stem, *words[words.index(script) + 1 :]]
    return words[1:] if words[0] == "icce" else None


@pytest.mark.parametrize("command", [one for one in commands() if icce_words(one) and "--help" not in one])
def test_options_and_settings_of_every_command_exist(command):
    name, *words = icce_words(command)
    given = typer.main.get_command(app).commands[name].make_context(name, words).params
    if name == "run":
        assert settings.load({"source": "x", "out": "y", "clusters": given["clusters"]}, overrides=given["overrides"])
    if name == "sweep":
        base = settings.load({"source": "x", "out": "y", "clusters": 10})
        assert len(trials(base, Sweep.of(given["params"]))) >= 10


def test_files_and_targets_of_other_commands_exist():
    text = " ".join(commands())
    for path in re.findall(r"(?:jobs|tests)/[\w/]+\.(?:py|yaml)", text):
        assert (ROOT / path).is_file(), path
    for target in re.findall(r"make (\w+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for command in commands():
        if command.startswith("python jobs/bench/"):
            source = (ROOT / command.split()[1]).read_text()
            options = [word.removeprefix("--").removeprefix("no-") for word in command.split() if word.startswith("--")]
            assert [option for option in options if option not in source] == [], command


def test_the_settings_file_of_the_readme_is_one(tmp_path):
    (text,) = re.findall(r"```yaml\n(# mnist\.yaml\n.*?)```", "".join(PAGES), re.DOTALL)
    (tmp_path / "mnist.yaml").write_text(text)
    found = settings.load({"source": "mnist", "out": "run", "clusters": 10}, config=str(tmp_path / "mnist.yaml"))
    assert found.heads.heads == yaml.safe_load(text)["heads"]["heads"]


@pytest.fixture(scope="module")
def place(cluster):
    """The reader's folder: photos/, new-photos/, truth.csv; and a tiny DINOv2 that the reader would not see."""
    folder, digits = cluster, load_digits()
    for index in range(100):
        path = folder / ("photos" if index < 80 else "new-photos") / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9375).astype(np.uint8)).save(path)
    rows = "".join(f"{index:03d}.png,{digits.target[index]}\n" for index in range(100))
    (folder / "truth.csv").write_text(f"uri,label\n{rows}")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28)
    Dinov2Model(config).save_pretrained(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def tiny(place):
    """The reader's machine: this folder, and short trainings under what commands ask."""
    load, clusterer = settings.load, icce_ray.ICCE

    def small(values, *, config=None, overrides=None):
        backbone = f"embed.backbone={place / 'weights'}"
        values = {name: value for name, value in values.items() if name != "embed"}  # the backbone of the command
        size = ["embed.image_size=28"]
        return load(values, config=config, overrides=[backbone, *size, *TINY, *(overrides or [])])

    def icce(**given):
        few = {"heads": 3, "epochs": 2, "warmup_epochs": 0, "iterations": 20, "k_min": 5, "batch_size": 40}
        return clusterer(**few, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(settings, "load", small)
        patch.setattr(icce_ray, "load_settings", small, raising=False)
        patch.setattr(icce_ray, "ICCE", icce, raising=False)
        yield patch


@pytest.fixture(scope="module")
def python_was_run(tiny):
    """The README's Python, from its first line to its last; `features` are the reader's own."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    features = np.random.default_rng(0).normal(size=(120, 8))
    names = {"features": features}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # two epochs teach nothing
        exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.slow(25)
def test_the_python_of_the_readme(python_was_run, place):
    assert python_was_run["metrics"]["predict"]["labelled"] == 80
    assert (place / "runs/photos-new/predictions").is_dir()
    assert python_was_run["labels"].shape == (120,)


@pytest.mark.slow(2)
@pytest.mark.parametrize("command", RUN)
def test_a_command_as_it_is_written(python_was_run, icce, command):
    status, out, err = icce(*shlex.split(command)[1:])
    assert status == 0, out + err
