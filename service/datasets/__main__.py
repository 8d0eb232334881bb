"""The process that reads one upload: see `apart`."""

from __future__ import annotations

import json
import sys

from service.datasets.apart import answer

if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
