"""Which failure ends a training on Ray Train, and with how many workers it goes on."""

from types import SimpleNamespace

import pytest
from ray.train import PreemptionError, WorkerGroupError

from icce_ray.stages import elastic
from icce_ray.stages.elastic import MOST_FAILURES, Failures, Grow, Worker, places_for, train_elastic
from icce_ray.store import RunError
from tests.failures import fails

WORKER = Worker("GPU", 0.0)


class Cluster:
    """Nodes of one worker each, and attempts of which each does the next of `acts`, given how many workers it has."""

    def __init__(self, monkeypatch, workers):
        self.nodes, self.begun, self.furthest, self.number = [], set(), 0, 0
        self.survey = SimpleNamespace(remote=lambda: (self.furthest, set(self.begun)))
        monkeypatch.setattr(elastic.ray, "get", lambda reference: reference)
        monkeypatch.setattr(elastic.ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in self.nodes])
        monkeypatch.setattr(elastic, "places_for", lambda most, worker, log: min(most, len(self.nodes)))
        self.add(workers)

    def add(self, count):
        for _ in range(count):
            self.nodes.append(f"node {self.number}")
            self.number += 1

    def lose(self):
        self.nodes.pop()

    def train(self, act):
        self.attempts = []

        def attempt(workers):
            self.begun |= set(self.nodes)
            self.attempts.append(workers)
            return act(len(self.attempts))

        return train_elastic(attempt, WORKER, len(self.nodes), progress=self, log=lambda text: None)


def failed(cause):
    raise WorkerGroupError("failed", {0: cause})


def test_an_error_of_the_program_ends_it_after_a_few_attempts_as_it_was_raised(monkeypatch):
    cluster = Cluster(monkeypatch, 4)
    with fails(ValueError, "the losses are not finite"):
        cluster.train(lambda number: failed(ValueError("the losses are not finite")))
    assert cluster.attempts == [4] * MOST_FAILURES


def test_nodes_may_be_lost_without_end_and_the_others_go_on(monkeypatch):
    cluster = Cluster(monkeypatch, 8)

    def lose(number):
        if number == 8:
            return "trained"
        cluster.lose()
        return failed(ConnectionError("a worker is gone"))

    assert cluster.train(lose) == "trained"
    assert cluster.attempts == [8, 7, 6, 5, 4, 3, 2, 1]


def test_nodes_that_come_are_taken_in(monkeypatch):
    cluster = Cluster(monkeypatch, 3)

    def come_and_go(number):
        if number == 1:
            cluster.lose()
            failed(ConnectionError("a worker is gone"))
        if number == 2:
            cluster.add(1)
            return Grow(3)
        return "trained"

    assert cluster.train(come_and_go) == "trained"
    assert cluster.attempts == [3, 2, 3]


def test_announced_losses_do_not_count(monkeypatch):
    cluster = Cluster(monkeypatch, 2)

    def preempt(number):
        if number <= 2 * MOST_FAILURES:
            raise PreemptionError(SimpleNamespace(preempted_ranks=[0]))
        return "trained"

    assert cluster.train(preempt) == "trained"


@pytest.mark.parametrize(
    ("failures", "last"),
    [
        ([(5, 0), (5, 0), (5, 0)], 3),
        ([(5, 0), (6, 0), (7, 0), (8, 0)], None),  # each attempt gained an epoch
        ([(5, 0), (5, 0), (6, 0), (6, 0), (6, 0)], 5),
        ([(5, 1), (5, 2), (5, 3), (5, 4)], None),  # each lost a node
        ([(5, 0), (5, 1), (5, 2), (5, 3)], None),  # known only at the failure after
        ([(0, 1), (0, 1), (0, 1), (0, 1)], 4),  # one lost, then a program that fails
        ([(5, 2), (6, 2), (6, 2), (6, 2)], 4),  # a loss of before the last epoch excuses nothing
    ],
)
def test_which_failure_is_the_last(failures, last):
    """(furthest epoch, nodes lost so far) at each failure."""
    counted = Failures()
    ends = [counted.last(*failure) for failure in failures]
    assert ends == [number == last for number in range(1, len(failures) + 1)]


class Groups:
    """Placement groups, of which `ready(look)` have room at each look at all of them."""

    def __init__(self, monkeypatch, ready, settle=0.0):
        self.there, self.looks = [], 0
        monkeypatch.setattr(elastic, "placement_group", self.ask)
        monkeypatch.setattr(elastic, "remove_placement_group", self.there.remove)
        monkeypatch.setattr(elastic, "placement_group_table", self.state)
        monkeypatch.setattr(elastic, "POLL_SECONDS", 0.001)
        monkeypatch.setattr(elastic, "SETTLE_SECONDS", settle)
        self.ready = ready

    def ask(self, bundles):
        self.there.append((len(self.there), bundles))
        return self.there[-1]

    def state(self, group):
        self.looks += group[0] == 0
        return {"state": "CREATED" if group[0] < self.ready(self.looks) else "PENDING"}


@pytest.mark.parametrize(
    ("ready", "settle", "found"),
    [(lambda look: 4, 60, 4), (lambda look: 2, 0.01, 2), (lambda look: min(4, look // 5), 60, 4)],
    ids=["all", "some", "one after another"],
)
def test_room_is_counted_by_what_is_given(monkeypatch, ready, settle, found):
    groups = Groups(monkeypatch, ready, settle)
    assert places_for(4, WORKER, log=lambda text: None) == found
    assert groups.there == []


def test_no_room_is_an_error_that_says_so_first(monkeypatch):
    groups, said = Groups(monkeypatch, lambda look: 0), []
    monkeypatch.setattr(elastic, "LEAST_WAIT_MINUTES", 0.005)
    with fails(RunError, "no GPU for one has come in 0.005 min", "add nodes", "goes on from the last checkpoint"):
        places_for(2, WORKER, log=said.append)
    assert said == ["no GPU is left for a worker: asked for, waiting up to 0.005 min"]
    assert groups.there == []
