"""Write requirements.lock: the versions in this environment of all packages that requirements.txt needs.

`make lock` runs this after `make test`, so that the lock file has versions that were tested.
"""

import re
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notebooks import ROOT

LOCK = ROOT / "requirements.lock"
# Torch pins them itself, and a torch for CPUs has none.
OF_TORCH = re.compile("nvidia|cuda|triton")


def locked_versions(lines: list[str]) -> dict[str, str]:
    """{name: version} of all packages that these requirements need, directly or through others."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()  # (name, extra); "": without an extra
    wanted = [Requirement(line) for line in lines]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        extras = {e for e in {"", *requirement.extras} if (name, e) not in seen}
        if not extras or OF_TORCH.match(name):
            continue
        seen |= {(name, extra) for extra in extras}
        try:
            found[name] = version(name).partition("+")[0]  # "2.13.0+cpu" is not on every index
        except PackageNotFoundError:
            continue
        for line in requires(name) or []:
            needed = Requirement(line)
            if needed.marker and any(needed.marker.evaluate({"extra": e}) for e in extras):
                needed.marker = None
            wanted.append(needed)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").open("r")]
    locked = locked_versions([line for line in lines if line])
    head = "# Tested versions (Linux, Python 3.11 or newer). Written by `make lock`."
    LOCK.write_text("\n".join([head, *(f"{n}=={v}" for n, v in locked.items())]) + "\n")
