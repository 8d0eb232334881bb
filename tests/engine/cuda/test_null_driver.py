"""The whole way of the host on a driver that computes nothing: context, memory, modules, launches, graphs, and everything given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import driver


@driver.needed
def test_a_program_goes_through_the_driver(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.engine.cuda.null_run"], env={**os.environ, **driver.environment(tmp_path)},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    both = json.loads(done.stdout.splitlines()[-1])
    found, fed = both["resident"], both["fed"]
    assert found["finished"] == found["steps"] and found["passed"]
    (step, _), (test, _) = found["launches"]
    launched, replayed, captured = found["counts"]
    assert launched == step + test                          # the first step of each kind goes as it is
    assert found["graphs"][-1] > 1 and captured == step * sum(found["graphs"])
    assert len(found["graphs"]) <= replayed < found["steps"]
    assert found["last"]                                    # the arguments of a launch arrive as they are
    assert found["bias"] == [0.0, 0.0, 0.0]                 # copied there and back
    assert fed["finished"] == fed["heeded"] == found["steps"]       # each batch is there because a graph waited for it
    assert fed["beside"] > 5 and fed["same"]                # and was on its way while another graph was waited for
    assert both["live"] == 0
