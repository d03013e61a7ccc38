"""Many runs: seeds, cost and matching, statistics, tables, page.

The folder has the name of the function `seqzoo.train.compare(...)`, and is called like it.
"""

import importlib
import sys
import types


class _Called(types.ModuleType):
    def __call__(self, *args: object, **options: object) -> object:
        """`seqzoo.train.door.compare`."""
        door = importlib.import_module(".door", __name__.rpartition(".")[0])
        return door.compare(*args, **options)


sys.modules[__name__].__class__ = _Called
