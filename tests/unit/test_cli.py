"""The `icce` command: every foreseen error as one message before Ray starts."""

import contextlib
import subprocess
import sys

import pytest
import ray
import torch

from icce_ray.cli import main as cli
from icce_ray.store import RunError, Store

IMAGES = 4


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(IMAGES):
        (folder / f"{index}.png").write_bytes(b"listed, never read")
    return str(folder)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def error(icce):
    """Calls the entry point, which must refuse; gives exit status and message."""

    def call(*arguments):
        status, shown, message = icce(*arguments)
        assert shown == ""
        assert message.startswith("error: ")
        assert message.count("error: ") == 1
        return status, message.removeprefix("error: ").rstrip("\n")

    return call


def test_the_installed_command_needs_neither_ray_nor_torch_to_refuse(tmp_path):
    program = (
        "import sys; from icce_ray.cli.main import main; sys.argv[1:] = ['status', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print(*sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "\n")
    assert result.stderr == f"error: {tmp_path} is not a run: it has no run.yaml; `icce run` makes one\n"


def test_version(icce):
    assert icce("--version")[:2] == (0, "icce-ray 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clusters", "1"], "clusters = 1: give at least 2"),
        (["--clusters", "many"], "clusters = 'many'"),
        ([], "clusters: missing, and it has no default (Number of classes K"),
        (["-k", "2", "--set", "neighbors.threshold=1.5"], "neighbors.threshold = 1.5: give at most 1.0"),
        (["-k", "2", "--config", "no.yaml"], "--config no.yaml: no such file"),
        (
            ["-k", "2", "--from", "neighbour"],
            "--from neighbour: there is no such stage; did you mean neighbors? stages",
        ),
        (["-k", "2", "--from", "heads", "--until", "embed"], "--from heads comes after --until embed"),
        (["-k", "2", "--redo", "heds"], "--redo heds: there is no such stage; did you mean heads? stages are list,"),
        (["-k", "2", "--format", "webdatset"], "list.format = 'webdatset': give 'auto', 'files', 'webdataset'"),
        (["-k", "2", "--out", "s3://AKIA:hunter2@bucket/run"], "out: the URI holds credentials"),
        (["-k", "2", "--out", "what://bucket/run"], "no store is known for what://, as in 'what://bucket/run'"),
    ],
)
def test_a_bad_command_line_ends_with_status_2(error, photos, out, arguments, says):
    status, message = error("run", photos, "--out", out, "--backbone", "hog", *arguments)
    assert status == cli.EXIT_USAGE
    assert says in message
    assert "hunter2" not in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rnu"], "'run'"),
        (["run", "photos", "--cluster", "20", "--out", "x"], "--clusters"),
        (["run", "photos", "-k", "20", "--out", "x", "--format", "webdatset"], "did you mean webdataset?"),
        (["predict", "x", "photos", "--out", "y", "--format", "fils"], "did you mean files?"),
        (["sweep", "x", "--param", "heads.epoch=3,4"], "did you mean heads.epochs?"),
        (["sweep", "x", "--param", "seed=3,4", "--search", "ahsa"], "did you mean asha?"),
        (["plan", "--images", "9", "--gpus", "1", "--gpu-type", "h20"], "did you mean h200?"),
        (
            ["plan", "--images", "9", "--gpus", "1", "--model", "facebook/dinov2-lrge"],
            "did you mean facebook/dinov2-large?",
        ),
    ],
)
def test_a_mistyped_word_suggests_the_right_one(icce, arguments, meant):
    status, _, message = icce(*arguments)
    assert status == cli.EXIT_USAGE
    assert meant in message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-k", IMAGES + 1], f"clusters = {IMAGES + 1} is more than the {IMAGES} images of"),
        (["--backbone", "dino-typo"], "backbone 'dino-typo' is neither 'hog', nor a directory, nor a model id"),
        (["--backbone", "facebook/dino-typo"], "not in the local cache, and the model hub cannot be reached"),
        (["--backbone", "facebook/dinov2-bse"], "from here; did you mean facebook/dinov2-base? give a local directory"),
        (["--backbone", "dinov2-large"], "nor a model id; did you mean facebook/dinov2-large? known ids: "),
        (["--set", "embed.features=cls"], "features 'cls' do not exist for the backbone 'hog'"),
        (
            ["--set", "neighbors.mode=ground_truth", "--set", "neighbors.labels=no.csv"],
            "labels = no.csv: no such file; give CSV or Parquet",
        ),
    ],
)
def test_an_error_of_the_run_ends_with_status_1_and_leaves_nothing(error, photos, out, arguments, says):
    status, message = error("run", photos, "-k", 2, "--out", out, "--backbone", "hog", "--quiet", *arguments)
    assert status == cli.EXIT_ERROR
    assert says in message
    assert "\n" not in message
    assert not Store(str(out)).storage.list()


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_a_source_without_images(error, tmp_path, out, make):
    source = tmp_path / "source"
    if make == "empty":
        (source / "inner").mkdir(parents=True)
        (source / "inner" / "readme.txt").write_text("no image")
    elif make == "file":
        source.write_text("no folder")
    status, message = error("run", source, "-k", 2, "--out", out, "--backbone", "hog", "-q")
    says = {"missing": "does not exist", "empty": "0 images in", "file": "is a file; give the folder"}
    assert status == cli.EXIT_ERROR
    assert says[make] in message
    assert not Store(str(out)).storage.list()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is asked for")
def test_a_gpu_that_is_not_there(error, photos, out):
    arguments = ["run", photos, "-k", 2, "--out", out, "--backbone", "hog", "--set", "resources.device=cuda"]
    status, message = error(*arguments)
    assert status == cli.EXIT_ERROR
    assert message.startswith("resources.device = cuda, but this machine has 0 GPUs")
    assert "set resources.device=cpu" in message
    assert not out.exists()


def test_more_components_than_dimensions(error, photos, out):
    status, message = error(
        "run", photos, "-k", 2, "--out", out, "--backbone", "hog", "--set", "neighbors.components=5000"
    )
    assert status == cli.EXIT_USAGE
    assert message.startswith("neighbors.components = 5000 of features of 372 dimensions: give at most 372, or 0")
    assert not out.exists()


def test_after_too_many_clusters_the_same_out_takes_the_right_number(error, photos, out, monkeypatch):
    assert error("run", photos, "-k", IMAGES + 1, "--out", out, "--backbone", "hog", "-q")[0] == cli.EXIT_ERROR

    def stop(settings, **_):
        raise RunError(f"reached with {settings.device}")  # where Ray would be asked what it has

    monkeypatch.setattr("icce_ray.pipeline.connected", contextlib.nullcontext)
    monkeypatch.setattr("icce_ray.pipeline.resources", stop)
    assert error("run", photos, "-k", 2, "--out", out, "--backbone", "hog", "-q") == (1, "reached with auto")
    assert Store(str(out)).settings().clusters == 2
    status, message = error("run", photos, "-k", 3, "--out", out, "--backbone", "hog", "-q")
    assert status == cli.EXIT_ERROR
    assert "is a run of other settings:\n  clusters: 2 in the run, 3 now\n" in message
    status, message = error("run", photos, "-k", 99, "--redo", "embed", "--out", out, "--backbone", "hog", "-q")
    assert "clusters = 99 is more than the 4 images" in message
    assert Store(str(out)).settings().clusters == 2  # a redo that cannot be is no redo
    (out.parent / "photos" / "new.png").write_bytes(b"one more")
    status, message = error("run", photos, "-k", 2, "--out", out, "--backbone", "hog", "-q")
    assert status == cli.EXIT_ERROR
    assert "has changed since the run began: it holds 5 files now" in message


@pytest.mark.parametrize("taken", ["features/mine.png", "heads"])
def test_a_folder_of_somebodys_files_is_left_alone(error, photos, out, taken):
    Store(str(out)).storage.write_bytes(taken, b"mine")
    status, message = error("run", photos, "-k", 2, "--out", out, "--backbone", "hog", "-q")
    assert status == cli.EXIT_ERROR
    assert "is not a run (run.yaml is missing), but holds" in message
    assert [name for name, _ in Store(str(out)).storage.list()] == [taken]


def test_an_out_that_cannot_be_written(error, photos, tmp_path):
    (tmp_path / "file").write_text("no folder")
    status, message = error("run", photos, "-k", 2, "--out", tmp_path / "file" / "run", "--backbone", "hog", "-q")
    assert status == cli.EXIT_ERROR
    assert str(tmp_path / "file") in message


@pytest.mark.parametrize(
    "arguments", [["status"], ["verify"], ["predict", "photos", "--out", "x"], ["evaluate", "--labels", "x.csv"]]
)
def test_what_is_no_run(error, tmp_path, arguments):
    command, *others = arguments
    status, message = error(command, tmp_path / "nothing", *others)
    assert status == cli.EXIT_ERROR
    assert "nothing is not a run: it has no run.yaml" in message
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--device", "tpu", "resources.device = 'tpu': give 'auto', 'cpu' or 'cuda'"),
        ("--format", "tar", "list.format = 'tar': give 'auto', 'files', 'webdataset'"),
    ],
)
def test_predict_takes_known_values_only(error, tmp_path, option, value, says):
    status, message = error("predict", tmp_path, "photos", "--out", tmp_path / "x", option, value)
    assert status == cli.EXIT_USAGE
    assert message.startswith(says)


def test_an_error_of_a_task_comes_without_the_tasks_trace(error, monkeypatch, tmp_path):
    fault = ray.exceptions.RayTaskError("_task", "Traceback of the worker", RunError("the file has no labels"))

    def run_file(self):
        raise fault.as_instanceof_cause()

    monkeypatch.setattr(Store, "run_file", run_file)
    assert error("status", tmp_path) == (cli.EXIT_ERROR, "the file has no labels")
