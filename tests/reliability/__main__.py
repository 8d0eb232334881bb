"""Prove what the service promises when things break, with the full numbers, and print what was shown.

    python -m tests.reliability [R1 R4 …] [--short]

A promise is a file `test_rNN_….py` here. Its docstring says, after `RN.`, what is asked; its tests tell the fixture `shown` what they have seen.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent


def promises() -> dict[str, Path]:
    """The files by name: R1, R2, …"""
    return {f"R{int(path.name[6:8])}": path for path in sorted(HERE.glob("test_r[0-9][0-9]_*.py"))}


def asked(path: Path) -> str:
    """What the promise asks."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return text.partition(". ")[2].rstrip(".")


def tried(path: Path, short: bool) -> tuple[str, float]:
    """What was shown, and the seconds it took."""
    which = ["-m", "not slow"] if short else ["-m", "slow or not slow", "-k", "not short"]
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        subprocess.run([sys.executable, "-m", "pytest", str(path), *which, f"--junitxml={report.name}", "-o", "junit_family=xunit1",
                        "-p", "no:cacheprovider"],
                       cwd=HERE.parents[1], stdout=sys.stderr)
        suite = next(ElementTree.parse(report.name).iter("testsuite"))
    said = []
    for case in suite.iter("testcase"):
        for word in ("failure", "error", "skipped"):
            said += [f"{word.upper()} {case.get('name')}: {found.get('message', '')[:200]}" for found in case.iter(word)]
        said += [str(found.get("value")) for found in case.iter("property") if found.get("name") == "shown"]
    return "; ".join(said).replace("\n", " ") or "nothing", float(suite.get("time", 0))


def main() -> int:
    short, names = "--short" in sys.argv, [name.upper() for name in sys.argv[1:] if not name.startswith("-")]
    print("| | asked | shown | seconds |\n|---|---|---|---|", flush=True)
    bad = False
    for name, path in promises().items():
        if not names or name in names:
            shown, seconds = tried(path, short)
            bad = bad or "FAILURE" in shown or "ERROR" in shown
            print(f"| {name} | {asked(path)} | {shown} | {seconds:.0f} |", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
