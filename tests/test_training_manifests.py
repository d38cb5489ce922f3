"""The examples of training on a cluster: valid for Kubernetes, with flags that exist."""

import re
from pathlib import Path

import pytest
import yaml

from destseg.cli.main import main

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def validate(manifest):
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    checker.validate(manifest, checker.latest_version(), strict=True)


def test_the_job_is_valid():
    validate(read("train-one.yaml"))


def test_the_pods_of_the_ray_job_are_valid():
    # KubeRay's own kinds are not Kubernetes'; the pods inside are.
    cluster = read("train-many.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
        validate({**pod, **group["template"]})


def test_their_commands_and_flags_exist(capsys):
    (container,) = read("train-one.yaml")["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].replace("--standalone --nproc-per-node 4", "")
    for command, text in (
        ("train", script),
        ("train-many", read("train-many.yaml")["spec"]["entrypoint"]),
    ):
        assert f"destseg {command} /data" in text
        assert main([command, "--help"]) == 0
        described = capsys.readouterr().out
        flags = re.findall(r"(?<!\S)--[a-z][a-z-]+", text)
        assert len(flags) >= 5
        assert [flag for flag in flags if flag not in described] == []


def test_a_worker_has_what_a_job_asks_for():
    manifest = read("train-many.yaml")["spec"]
    (group,) = manifest["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    for flag, name, kind in (
        ("--cpus", "cpu", "requests"),
        ("--gpus", "nvidia.com/gpu", "limits"),
    ):
        asked = re.search(rf"{flag} (\d+)", manifest["entrypoint"])[1]
        assert container["resources"][kind][name] == asked
