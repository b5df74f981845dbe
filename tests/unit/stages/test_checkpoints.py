"""Checkpoints of the heads: what the training does while one is written, and where it ends for more workers."""

import threading
from types import SimpleNamespace

import pytest
import torch

from icce_ray.core.neighbors import Neighbors
from icce_ray.io.storage import Storage, StorageError
from icce_ray.stages import heads
from icce_ray.stages.checkpoints import CheckpointWriter
from icce_ray.stages.elastic import Grow, Worker
from icce_ray.stages.features import FeatureRows
from icce_ray.store.artifacts import HEAD_WEIGHTS, checkpoint_of
from tests.failures import fails
from tests.small_run import EPOCHS, made

CHECKPOINT = checkpoint_of("heads")
#: Seconds until a wait fails that none of these tests should need.
PATIENCE = 20


class Epochs:
    """Stands for the actor of the driver: which epochs have ended."""

    def __init__(self):
        self.ended = [threading.Event() for _ in range(EPOCHS + 1)]
        self.report = SimpleNamespace(remote=lambda report: self.ended[report.done].set())
        self.join = SimpleNamespace(remote=lambda node: None)


class Disk:
    """Writing a checkpoint does `act(number)` first; counts what is done with checkpoints."""

    def __init__(self, monkeypatch, act):
        self.under_way, self.most, self.written, self.read, self.act = 0, 0, [], 0, act
        write, read = Storage.write_bytes, Storage.read_bytes

        def slow(storage, path, data):
            if path == CHECKPOINT:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                self.act(len(self.written) + 1)
                self.written.append(len(data))
                self.under_way -= 1
            write(storage, path, data)

        def counted(storage, path):
            found = read(storage, path)
            self.read += len(found)
            return found

        monkeypatch.setattr(Storage, "write_bytes", slow)
        monkeypatch.setattr(Storage, "read_bytes", counted)


@pytest.fixture
def training(tmp_path, monkeypatch):
    """The stage's own function for its workers, with a checkpoint after every epoch, in this process."""
    store = made(tmp_path / "run")
    settings = store.resolved(store.settings())
    settings = settings.model_copy(update={"heads": settings.heads.model_copy(update={"checkpoint_epochs": 1})})
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_local_world_size=lambda: 1))
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(heads, "threads_here", lambda sharers: 1)
    monkeypatch.setattr(heads.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a node"))
    lists = Neighbors(torch.arange(6), torch.arange(5).roll(1).int(), torch.empty(0))
    monkeypatch.setattr(heads.neighbors, "load", lambda root, rows: lists)
    monkeypatch.setattr(heads, "flush", lambda actor: None)
    rows, epochs = FeatureRows.inputs(store, settings.neighbors.components), Epochs()
    config = {"root": store.root, "rows": rows, "settings": settings, "compiled": False, "progress": epochs}
    config |= {"worker": Worker("GPU", 0.0), "most": 1, "epochs_before": 0}
    return SimpleNamespace(store=store, epochs=epochs, config=config, run=lambda: heads.train(config))


def test_the_next_epoch_does_not_wait_for_a_checkpoint(training, monkeypatch):
    def until_the_next_epoch_has_ended(number):
        if number < EPOCHS:
            assert training.epochs.ended[number + 1].wait(PATIENCE), "no epoch ends while a checkpoint is written"

    disk = Disk(monkeypatch, until_the_next_epoch_has_ended)
    weights, losses = training.run()
    assert (len(disk.written), disk.most, disk.read) == (EPOCHS, 1, 0)
    state = training.store.storage.read_tensors(CHECKPOINT)
    assert (int(state["epoch"]), state["history"].shape[0]) == (EPOCHS, EPOCHS)
    assert [training.store.storage.describe(info.path) for info in (weights, losses)] == [weights, losses]
    assert weights.path == HEAD_WEIGHTS.path


@pytest.mark.parametrize("which", [1, EPOCHS], ids=["the first", "the last"])
def test_a_checkpoint_that_cannot_be_written_ends_the_training(training, monkeypatch, which):
    def fail(number):
        if number == which:
            raise StorageError("the disk is full")

    Disk(monkeypatch, fail)
    with fails(StorageError, "the disk is full"):
        training.run()


def test_an_error_of_the_training_is_not_hidden_by_that_of_its_checkpoint(tmp_path, monkeypatch):
    def fail(number):
        raise StorageError("the disk is full")

    Disk(monkeypatch, fail)

    def train():
        with CheckpointWriter(Storage(tmp_path), CHECKPOINT) as checkpoints:
            checkpoints.write({"epoch": torch.tensor(1)})
            raise ValueError("the losses are not finite")

    with pytest.raises(ValueError, match="losses") as error:
        train()
    assert "the disk is full" in error.value.__notes__[0]


class Rooms:
    """Stands for `Places`: room for one comes when so many checkpoints were begun."""

    def __init__(self, monkeypatch, after):
        self.asked, self.after = [], after
        monkeypatch.setattr(heads, "Places", self)

    def __call__(self, bundle, count):
        self.asked.append((bundle, count))
        return self

    def ready(self):
        self.after -= 1
        return int(self.after <= 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_it_ends_after_a_whole_checkpoint_when_there_is_room_for_another_worker(training, monkeypatch):
    rooms, training.config["most"] = Rooms(monkeypatch, after=2), 2
    assert training.run() == Grow(2)
    assert rooms.asked == [({"CPU": 1.0, "GPU": 1.0}, 1)]
    assert int(training.store.storage.read_tensors(CHECKPOINT)["epoch"]) == 2


def test_a_run_that_goes_on_with_fewer_gpus_asks_for_as_many_as_it_had(training, monkeypatch):
    rooms, training.config["most"] = Rooms(monkeypatch, after=1), 2
    training.run()
    training.config["most"] = 1  # the driver was killed, and its cluster has one GPU now
    assert training.run() == Grow(2)
    assert rooms.asked[-1][1] == 1
