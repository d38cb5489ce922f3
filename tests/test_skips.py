"""In CI a test that is skipped for anything but a missing GPU fails (the hooks of conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs(): pass
def test_needs_a_browser(): pytest.skip("there is no chromium")
@pytest.mark.skipif(True, reason="not here")
def test_needs_a_system(): pass
@pytest.mark.gpu
def test_needs_a_gpu(): pytest.skip("no CUDA device")
@pytest.mark.xfail
def test_is_expected_to_fail(): assert False
"""


@pytest.fixture
def outcomes(tmp_path):
    """Run these tests beside this conftest.py, and return how many ended in which way."""

    def run(**environment):
        conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
        (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
        (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
        (tmp_path / "test_module.py").write_text(
            "import pytest\npytest.importorskip('no_such_module')\n", encoding="utf-8"
        )
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n", encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if "CI" not in name.split("_")}
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--quiet", "--tb=short"]
        words += ["--continue-on-collection-errors", str(tmp_path)]
        done = subprocess.run(words, env=own | environment, capture_output=True, text=True)
        counts = done.stdout.splitlines()[-1].split(" in ")[0]
        return done.stdout, dict(reversed(each.split()) for each in counts.split(", "))

    return run


def test_a_skip_is_a_skip_on_a_users_machine(outcomes):
    _, counts = outcomes()
    assert counts == {"passed": "1", "skipped": "4", "xfailed": "1"}


def test_a_skip_fails_in_ci_unless_it_is_for_a_gpu(outcomes):
    said, counts = outcomes(DESTSEG_CI="1")
    # What is skipped before the test itself begins, or as a file, counts as an error.
    assert counts == {"passed": "1", "skipped": "1", "xfailed": "1", "failed": "1", "errors": "2"}
    assert "got: Skipped: there is no chromium" in said
