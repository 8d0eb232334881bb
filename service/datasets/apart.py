"""Reading an upload in a process of its own, which ends with it.

Large files, and formats that other people's C code takes apart, are read there: the memory that it takes is given back, a cap on that memory holds,
and what crashes it is an answer to one request. The parent writes the task to its input, and finds the draft's table.json when it says {"ok": true}.

    python -m service.child PARENT_PID service.datasets
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.errors import Problem
from service.datasets.draft import Draft, described
from service.datasets.formats import Options
from service.datasets.limits import Budget, DatasetError, Limits
from service.datasets.read import Task, read
from service.datasets.streams import PIECE, packed, unpacked
from service.errors import ServiceError, StorageFull

ALWAYS = ("parquet", "images")
AT_ONCE = 2             # further ones wait
GRACE_SECONDS = 30      # to start, and to be told that time is over
QUIET = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
_turns = threading.BoundedSemaphore(AT_ONCE)


def wanted(draft: Draft, task: Task) -> bool:
    """Whether a task is for a process of its own: by its format, or its size, also when unpacked."""
    most = task.limits.apart_bytes
    return most is not None and (task.format in ALWAYS or task.bytes >= most or (packed(draft.content) and longer(draft, most)))


def longer(draft: Draft, most: int) -> bool:
    """Whether gzip unpacks to so many bytes."""
    with suppress(DatasetError), unpacked(draft.content, Budget(Limits(expanded_bytes=most))) as stream:
        while stream.read(PIECE):
            pass
        return False
    return True


def read_apart(draft: Draft, task: Task) -> dict[str, Any]:
    """What `read` does, elsewhere."""
    said = {"path": str(draft.path), "format": task.format, "options": asdict(task.options), "limits": asdict(task.limits), "bytes": task.bytes}
    command = [sys.executable, "-m", "service.child", str(os.getpid()), "service.datasets"]
    home = Path(__file__).parents[2]
    with _turns, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=home, env={**os.environ, **QUIET}) as process:
        try:
            answer = process.communicate(json.dumps(said).encode(), timeout=task.limits.seconds + GRACE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise DatasetError("too_slow", f"reading the data took longer than {task.limits.seconds:g} seconds: send less", 413) from None
        except BaseException:
            process.kill()
            raise
    found = json.loads(answer) if process.returncode == 0 and answer else {"problem": died(process.returncode)}
    if "problem" in found:
        raise refused(found["problem"])
    return described(draft.path)


def died(status: int) -> dict[str, Any]:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    detail = f"the process that read this upload ended with {how}: the file is damaged, or reading it needs too much memory"
    return told(DatasetError("unreadable", detail))


def told(error: ServiceError) -> dict[str, Any]:
    problems = [problem.as_dict() for problem in error.errors]
    return {"status": error.status, "code": error.code, "detail": error.detail, "errors": problems, "more": error.more}


def refused(problem: dict[str, Any]) -> ServiceError:
    """The problem of an answer as the exception it was."""
    if problem["status"] == 507:
        return StorageFull(problem["detail"])
    found = DatasetError(problem["code"], problem["detail"], problem["status"], **problem["more"])
    found.errors = [Problem(item["pointer"], item["code"], item["detail"], item.get("suggestion")) for item in problem["errors"]]
    return found


def answer(said: dict[str, Any]) -> dict[str, Any]:
    """{"ok"} or {"problem"} for a task."""
    limits = Limits(**said["limits"])
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        read(Draft(None, Path(said["path"])), Task(said["format"], Options(**said["options"]), limits, said["bytes"]), quick=True)
        return {"ok": True}
    except ServiceError as error:
        return {"problem": told(error)}
    except MemoryError:
        detail = f"reading the data needs more than {limits.memory_bytes:,} bytes of memory: send it in smaller row groups, or as CSV"
        return {"problem": told(DatasetError("too_large", detail, 413))}
    except OSError as error:
        if error.errno in (28, 122):
            return {"problem": told(StorageFull())}
        raise
