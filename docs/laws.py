"""Every mixer and preset under the laws of use, as the page docs/laws.md.

    python docs/laws.py                      # all; what is in --kept is not tried again
    python docs/laws.py --names 'lru;llama' --laws mesh

Each is small, as in tests/models/tiny.py. Takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

from seqzoo.models import MIXERS  # noqa: E402
from tests import laws  # noqa: E402
from tests.flags import set_day, set_flags, share_compiled  # noqa: E402

set_day()  # by which tests choose when they are imported
from tests.laws.check import tried  # noqa: E402
from tests.models.test_use_laws import NAMES, subject  # noqa: E402

HEAD = """# What any program may do with a mixer

    python docs/laws.py

The laws `USES` of `seqzoo.testing`, each tried on every mixer of the registry and, as backbones,
on every preset and on blocks with batch norm and experts. Laws of streams are of those that are
causal. Each law is seen to fail on a seeded fault (`tests/models/test_broken_mixers.py`). Laws of
numbers (forms that must agree) are tried on all mixers by `make test`.

| law | what it says | mixers | presets and blocks |
|---|---|---|---|
"""


def main() -> None:
    """Reads the command line, tries what is asked for, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--names", default=";".join(NAMES), help="of mixers and presets, semicolons between"
    )
    parser.add_argument("--laws", default=",".join(laws.USES), help="of laws")
    parser.add_argument(
        "--kept", default=str(ROOT / ".pytest_cache" / "laws.json"), help="results so far"
    )
    options = parser.parse_args()
    set_flags()
    share_compiled()
    jax.config.update("jax_default_matmul_precision", "highest")
    place = Path(options.kept)
    found = json.loads(place.read_text()) if place.exists() else {}
    for name in options.names.split(";"):
        own = found.setdefault(name, {})
        left = [law for law in options.laws.split(",") if law not in own]
        if not left:
            continue
        s = subject(name)
        for law in left:
            if law in laws.laws_of(s.mixer.causal, s.streams):
                result = tried(law, s)
                own[law] = "" if result.kept else result.seen
                print(name, law, own[law] or "kept", flush=True)
            else:
                own[law] = None
        place.write_text(json.dumps(found))
        jax.clear_caches()
    (ROOT / "docs" / "laws.md").write_text(page(found))


def page(found: dict[str, dict[str, str | None]]) -> str:
    """The table, and what is broken."""
    text, broken = HEAD, []
    for law in laws.USES:
        says = laws.LAWS[law].check.__doc__.splitlines()[0]
        cells = []
        for single in (True, False):
            seen = {name: own.get(law) for name, own in found.items() if (name in MIXERS) is single}
            concerned = {name: what for name, what in seen.items() if what is not None}
            faults = {name: what for name, what in concerned.items() if what}
            cells.append(f"{len(concerned) - len(faults)} of {len(concerned)}")
            broken += [f"- {name} breaks {law}: {what}" for name, what in faults.items()]
        text += f"| {law} | {says} | {' | '.join(cells)} |\n"
    text += "\nMixers: " + "; ".join(n for n in found if n in MIXERS) + ".\n"
    text += "\nPresets and blocks: " + "; ".join(n for n in found if n not in MIXERS) + ".\n"
    return text + ("\n" + "\n".join(broken) + "\n" if broken else "")


if __name__ == "__main__":
    main()
