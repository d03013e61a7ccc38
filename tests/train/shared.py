"""Equal configurations share their compiled programs, for tests that run many commands."""

import contextlib
import json
import sys

from seqzoo.train.loop import program


@contextlib.contextmanager
def programs():
    """Inside, a program is made once for each configuration."""
    real, made = program.make_program, {}

    def make_program(experiment, **options):
        config = {**experiment.to_dict(), "model": experiment.model}
        key = json.dumps([config, {name: repr(value) for name, value in options.items()}])
        if key not in made:
            made[key] = real(experiment, **options)
        return made[key]

    users = [m for m in sys.modules.values() if getattr(m, "make_program", None) is real]
    try:
        for module in users:
            module.make_program = make_program
        yield
    finally:
        for module in users:
            module.make_program = real
