"""Run legs by hand and print how they differ: `python -m tests.conformance [--write] [LEG …]`; `--write` keeps what was found."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.conformance.legs import KNOWN, LEGS, differences, judge
from tests.conformance.world import side_by_side


def main(words: list[str]) -> int:
    """Exit code 0 where nothing differs."""
    named = [word for word in words if not word.startswith("-")]
    legs = [leg for leg in LEGS if not named or leg.name in named]
    known = json.loads(KNOWN.read_text())
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "gateway").mkdir()
        with side_by_side(Path(folder) / "gateway") as urls:
            for leg in legs:
                found = differences(*judge(leg, *urls, Path(folder) / leg.name))
                known.pop(leg.name, None)
                known |= {leg.name: found} if found else {}
                for check, (direct, through) in found.items():
                    print(f"{leg.name}: {check}: {direct} direct, {through} through the gateway")
                differ += len(found)
    if "--write" in words:
        text = json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False)
        KNOWN.write_text(text + "\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
