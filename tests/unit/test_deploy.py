"""cluster.yaml, jobs/rayjob.yaml, Dockerfile: valid for what reads them, closed to the world, of the tested versions.

Ray's launcher is asked itself, against a simulated AWS, and so is its autoscaler, which reads KubeRay's clusters. What
else KubeRay takes is not known without a cluster.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from docker.utils.build import exclude_paths
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from icce_ray.cli.main import app
from tests.unit.planning.test_plan import planned

ROOT = Path(__file__).parents[2]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def launcher():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def job():
    return yaml.safe_load((ROOT / "jobs/rayjob.yaml").read_text())


# -- Ray's cluster launcher --------------------------------------------------------------------------------------------


def test_the_launcher_takes_the_file(launcher):
    validate_config(prepare_config(launcher))
    launcher["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(jsonschema.ValidationError, match="spot"):
        validate_config(prepare_config(launcher))


# moto's own keys would be what the environment is put back to at the end.
@mock_aws(config={"core": {"mock_credentials": False}})
def test_what_the_launcher_makes_on_aws_is_open_for_ssh_only(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # a key pair is written there
    (tmp_path / ".ssh").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    region = launcher["provider"]["region"]
    made = bootstrap_aws(prepare_config(launcher))
    ec2 = boto3.client("ec2", region_name=region)
    used = {kind: node["node_config"] for kind, node in made["available_node_types"].items()}
    [group] = {name for config in used.values() for name in config["SecurityGroupIds"]}
    [found] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert found["GroupName"] == "icce-ray"
    from_outside = [rule for rule in found["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]
    within = [pair["GroupId"] for rule in found["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert within == [group]
    profiles = {kind: config["IamInstanceProfile"]["Name"] for kind, config in used.items()}
    assert profiles == {"head": "icce-ray-head", "cpu": "icce-ray-worker", "gpu": "icce-ray-worker"}


def test_the_launcher_s_cluster_has_the_right_shape(launcher):
    types = launcher["available_node_types"]
    assert launcher["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in launcher["head_start_ray_commands"][1]
    market = {
        kind: node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for kind, node in types.items()
    }
    assert market == {"head": None, "cpu": None, "gpu": "spot"}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert all(types[kind]["min_workers"] == 0 < types[kind]["max_workers"] for kind in ("cpu", "gpu"))
    assert launcher["max_workers"] == types["cpu"]["max_workers"] + types["gpu"]["max_workers"]


def test_the_launcher_s_cluster_asks_for_a_token_and_its_dashboard_stays_on_localhost(launcher):
    assert any("RAY_AUTH_MODE=token" in option for option in launcher["docker"]["run_options"])
    assert launcher["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    start = " ".join(launcher["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


# -- KubeRay -----------------------------------------------------------------------------------------------------------


def test_rays_autoscaler_reads_the_job_of_kuberay_as_the_launchers_cluster(job, launcher):
    spec = job["spec"]["rayClusterSpec"]
    read = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": spec})
    assert read["max_workers"] == launcher["max_workers"]
    types, others = read["available_node_types"], launcher["available_node_types"]
    assert {"head" if name == read["head_node_type"] else name for name in types} == set(others)
    for name, other in others.items():
        found = types[read["head_node_type"] if name == "head" else name]
        assert found["min_workers"] == 0
        assert found["max_workers"] == other["max_workers"]
        assert found["resources"].get("GPU") == other["resources"].get("GPU")
        assert (found["resources"]["CPU"] == 0) == (other["resources"]["CPU"] == 0)
        assert found["resources"]["memory"] > 2**33


def test_the_job_of_kuberay_asks_for_a_token_and_ends_with_its_cluster(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["shutdownAfterJobFinishes"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert (cluster["enableInTreeAutoscaling"], cluster["headGroupSpec"]["serviceType"]) == (True, "ClusterIP")
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    [container, *others] = [container for pod in pods for container in pod["containers"]]
    assert all(one["env"] == container["env"] for one in others)
    assert {pod["serviceAccountName"] for pod in pods} == {"icce-ray"}


def test_the_gpus_hold_what_a_plan_of_the_largest_sample_needs(launcher, job):
    """On one GPU alone: of spot workers it may be the only one that is left."""
    cards = {"g6.4xlarge": "l4", "g6e.4xlarge": "l40s"}
    kind = launcher["available_node_types"]["gpu"]["node_config"]["InstanceType"]
    assert planned(10**8, gpus=1, gpu_type=cards[kind]).warnings == ()
    [pod] = [
        group["template"]["spec"]
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        if group["groupName"] == "gpu"
    ]
    assert pod["nodeSelector"]["node.kubernetes.io/instance-type"] == kind


def test_only_nodes_with_gpus_install_torch_for_cuda(launcher, job):
    cpu = "--index-url https://download.pytorch.org/whl/cpu"
    types = launcher["available_node_types"]
    assert cpu in launcher["setup_commands"][0]
    assert {name for name, kind in types.items() if "worker_setup_commands" in kind} == {"gpu"}
    commands = types["gpu"]["worker_setup_commands"]
    assert not any(cpu in command for command in commands)
    assert "g++" in commands[0]
    assert commands[-1] == launcher["setup_commands"][-1]
    cluster = job["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    images = {name: group["template"]["spec"]["containers"][0]["image"] for name, group in groups.items()}
    assert {name: image.rpartition("-")[2] for name, image in images.items()} == {
        "head": "cpu",
        "cpu": "cpu",
        "gpu": "gpu",
    }
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"-t (\S+)", text)) == set(images.values())
    assert cpu in text


def test_the_image_holds_the_package_and_nothing_of_a_working_tree(tmp_path):
    wanted = ["constraints.txt", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]]
    wanted += ["icce_ray/cli/main.py", "jobs/run.py"]
    others = [".git/config", ".venv/bin/python", "icce_ray/__pycache__/x.pyc", "runs/photos/run.yaml", "tests/x.py"]
    for name in (*wanted, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    taken = {path for path in exclude_paths(str(tmp_path), patterns) if (tmp_path / path).is_file()}
    assert taken - {"Dockerfile"} == set(wanted)


# -- what both say -----------------------------------------------------------------------------------------------------


def commands_of(name):
    """Every `python .../jobs/X.py ...` that a file shows or runs, continued lines joined, without what surrounds it."""
    text = re.sub(r"\\?\n#?\s+", " ", (ROOT / name).read_text())
    found = re.findall(r"python ((?:/home/ray/icce-ray/)?jobs/\w+\.py [^#\n]*?)(?= ray down| submissionMode|$)", text)
    return [shlex.split(words.removeprefix("/home/ray/icce-ray/")) for words in found]


@pytest.mark.parametrize("name", ["cluster.yaml", "jobs/rayjob.yaml"])
def test_entry_points_exist_and_take_their_arguments(name):
    commands = commands_of(name)
    assert commands
    for script, *arguments in commands:
        assert (ROOT / script).is_file()
        done = CliRunner().invoke(app, [Path(script).stem, *arguments, "--help"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["cluster.yaml", "jobs/rayjob.yaml", "Dockerfile"])
def test_versions_are_the_pinned_ones(name):
    text = (ROOT / name).read_text()
    versions = re.findall(r"(?:rayproject/ray:|icce-ray:|rayVersion: \")([\d.]+)", text)
    assert len(versions) >= 3
    assert set(versions) == {PINNED["ray"]}


@pytest.mark.parametrize("name", ["cluster.yaml", "Dockerfile"])
def test_what_is_installed_is_the_pinned_set(name):
    text = (ROOT / name).read_text()
    pythons = {f"{major}.{minor}" for major, minor in re.findall(r"-py(\d)(\d+)-", text)}
    assert pythons == {PROJECT["requires-python"].removeprefix(">=")}
    assert "-c /home/ray/icce-ray/constraints.txt" in text
    assert "icce-ray[cluster]" in text
    assert "cluster" in PROJECT["optional-dependencies"]


def test_what_a_job_server_needs_comes_with_the_extra():
    extra = PROJECT["optional-dependencies"]["cluster"]
    assert any(entry.startswith("ray[default]") for entry in extra)  # without it `ray start` silently has no job server
    assert {"aiohttp-cors", "opencensus", "boto3"} <= set(PINNED)


@pytest.mark.parametrize("name", ["cluster.yaml", "jobs/rayjob.yaml"])
def test_there_is_no_credential_in_any_file(name):
    text = (ROOT / name).read_text()
    assert not re.search(
        r"AKIA|aws_secret|SECRET_ACCESS|auth_token:|BEGIN .*KEY", text.replace(".ray/auth_token:", ""), re.I
    )
    names = json.dumps(yaml.safe_load(text))
    assert "RAY_AUTH_TOKEN" not in names.replace("RAY_AUTH_TOKEN_PATH", "")
