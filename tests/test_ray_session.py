"""A session of Ray: what it is asked and what is told of its answers, without starting one."""

import logging
import os
import signal
import sys

import pytest

from destseg.errors import DestsegError, MissingExtraError, SettingsError
from destseg.interruption import Interruption
from destseg.ray_session import Needs, room, session

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
WORDS = {"flags": "--cpus, --gpus", "what_for": "train-many"}


@pytest.fixture
def begun(monkeypatch):
    """A Ray that is not running and has two machines; gives what it was called with."""
    calls = []
    machines = [{"CPU": 7.0, "GPU": 1.0}, {"CPU": 3.0}, {}]
    nodes = [{"Alive": True, "Resources": each} for each in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 100.0}})

    def init(*words, **named):
        named["usage"] = os.environ.get("RAY_USAGE_STATS_ENABLED")
        named["retries"] = os.environ.get("RAY_OTHER")
        calls.append((words, named))

    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("ended"))
    return calls


def test_one_of_our_own_is_begun_quietly_and_ended(begun, monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with session(None, Needs(), **WORDS, object_store_memory=10**8, RAY_OTHER="3"):
        ((words, named),) = begun
    assert words == ("local",)
    assert (named["object_store_memory"], named["include_dashboard"]) == (10**8, False)
    assert (named["usage"], named["retries"]) == ("0", "3")
    assert begun[1:] == ["ended"]
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert "RAY_OTHER" not in os.environ


def rays_handler(number, frame):
    sys.exit(number)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_programs_handler_of_sigterm_stays(begun, own_handler, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, rays_handler))
    with session(None, Needs(), **WORDS):
        os.kill(os.getpid(), signal.SIGTERM)
        assert own_handler == [signal.SIGTERM]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("address", [None, "auto"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ray_begins_ends_ray_and_does_what_it_does_in_the_program(
    number, address, begun, monkeypatch
):
    def init(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, rays_handler)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(ray, "init", init)
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt), interruption.end(), session(address, Needs(), **WORDS):
        pytest.fail("it went on")
    assert interruption.signal == number
    assert begun == ["ended"]


def test_a_session_that_runs_already_is_used_and_left_running(begun, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with session(None, Needs(), **WORDS) as given:
        assert given is ray
    assert begun == []


def test_room_is_counted_machine_by_machine(begun):
    assert room(ray, Needs(cpus=2)) == 4
    assert room(ray, Needs(cpus=0.5)) == 20
    assert room(ray, Needs(cpus=2, gpus=0.5)) == 2
    assert room(ray, Needs(cpus=8)) == 1


def test_what_this_machine_cannot_give_is_refused(begun):
    with (
        pytest.raises(
            SettingsError,
            match="--cpus, --gpus: expected a machine with 8 CPUs and 0 GPUs for each "
            "worker, got at most 7 CPUs and 1 GPUs",
        ),
        session(None, Needs(cpus=8), **WORDS),
    ):
        pass
    assert begun[1:] == ["ended"]


def test_a_cluster_may_grow(begun, caplog):
    with caplog.at_level(logging.WARNING), session("auto", Needs(cpus=8), **WORDS):
        pass
    assert "waiting until the cluster has one" in caplog.text


def test_a_ray_that_does_not_start_is_told_without_a_trace(begun, monkeypatch):
    def late(*_arguments, **_keywords):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late)
    with (
        pytest.raises(DestsegError, match=r"timed out during startup\. Is it busy"),
        session(None, Needs(), **WORDS),
    ):
        pass
    assert begun == ["ended"]


def test_a_cluster_that_is_not_there_is_an_error_of_its_address(begun, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_a, **_k: int("no"))
    with (
        pytest.raises(SettingsError, match="--address: expected a Ray cluster at no, got"),
        session("no", Needs(), **WORDS),
    ):
        pass
    assert begun == []


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install .*'ray\[data\]>="),
        session(None, Needs(), **WORDS),
    ):
        pass
