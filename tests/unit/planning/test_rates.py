"""The file of rates: every figure says how it is known; own files are checked."""

import pytest
import yaml

from icce_ray.planning.rates import PlanError, load_rates
from tests.failures import fails

OWN = {
    "gpus": {
        "x1": {
            "memory_gb": 10,
            "bfloat16_tflops": 100,
            "float32_tflops": 20,
            "bandwidth_gb_s": 500,
            "source": "the vendor's page",
        }
    },
    "models": {"own/model": {"width": 64, "depth": 2, "patch": 16}},
}
MEASURED = {"date": "2026-01-02", "machine": "a machine", "command": "a command"}


@pytest.fixture
def own(tmp_path):
    """A file with this content; gives its path."""

    def write(content):
        path = tmp_path / "own.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return write


def test_every_rate_says_how_it_is_known():
    rates = load_rates()
    for section in (rates.host, rates.core, rates.fixed):
        for name, rate in section.items():
            assert (rate.measured is None) != (rate.counted is None), name
            if rate.measured:
                assert rate.measured.date.year >= 2026, name
                assert "python jobs/bench/" in rate.measured.command, name
    assert all(share.basis for share in rates.shares.values())


@pytest.mark.parametrize("name", sorted(set(load_rates().core) - {"label"}))  # which is done on CPUs
def test_what_a_gpu_takes_that_nobody_measured_is_counted_over_a_share_of_its_published_peak(name):
    rates = load_rates()
    for card in rates.gpus.values():
        share = rates.shares[name]
        rate = card.rate(name, share)
        if name not in card.rates:
            peaks = {"bfloat16": card.bfloat16_tflops, "float32": card.float32_tflops, "bandwidth": card.bandwidth_gb_s}
            unit = 1e9 if share.of == "bandwidth" else 1e12
            assert rate.value == pytest.approx(share.share * peaks[share.of] * unit)
            assert rate.source.startswith(f"counted, not measured: assumed {share.share:.0%} of the")
            assert card.source in rate.source


def test_own_entries_stand_beside_and_in_the_place_of_ours(own):
    faster = {"value": 7e13, "unit": "FLOP/s/GPU", "what": "own", "measured": MEASURED}
    rates = load_rates(own(OWN | {"gpus": OWN["gpus"] | {"h100": {"rates": {"linear": faster}}}}))
    assert rates.gpu("x1").rate("forward_large", rates.shares["forward_large"]).value == 0.3 * 100e12
    assert rates.model("own/model").tokens(32) == 5
    assert rates.gpu("h100").rates["linear"].source == "measured 2026-01-02 on a machine with `a command`"
    assert rates.gpu("h100").rate("search_matmul", rates.shares["search_matmul"]).measured is None
    assert rates.gpu("h100") == load_rates().gpu("h100").model_copy(update={"rates": rates.gpu("h100").rates})


def rate(**changes):
    entry = {"value": 1.0, "unit": "images/s", "what": "x", "measured": MEASURED}
    return {"host": {"decode": {key: value for key, value in (entry | changes).items() if value is not None}}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (rate(measured=None), "give either `measured` (date, machine, command) or `counted`"),
        (rate(measured={"date": "2026-01-02", "machine": "m"}), "host.decode.measured.command is missing"),
        (rate(value=0), "host.decode.value = 0: Input should be greater than 0"),
        (rate(speed=2), "host.decode.speed = 2: Extra inputs are not permitted"),
        ({"host": {"decoding": {}}}, "host.decoding is no rate; did you mean decode?"),
        ({"gpus": {"x1": {"memory_gb": 10}}}, "gpus.x1.bfloat16_tflops is missing"),
        ({"speeds": {}}, "speeds = {}: Extra inputs"),
        ("- 1", "holds list, not a map"),
    ],
)
def test_a_faulty_file_is_refused_by_field(own, content, words):
    with fails(PlanError, "--rates ", "own.yaml", words):
        load_rates(own(content))
