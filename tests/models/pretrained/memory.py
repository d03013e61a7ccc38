"""Peak host memory and seconds of loading a random checkpoint, in a process of its own.

    python -m tests.models.pretrained.memory 3e9

The last line is JSON: bytes of all tensors and of the largest, the peak of resident bytes above
those before, and seconds. Only Linux says these.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.models.pretrained.published import folder


def write(path: Path, total: float) -> None:
    """A Llama of about `total` bytes in float32, in files of half a gigabyte at most."""
    from safetensors.numpy import save_file

    from seqzoo.models.pretrained.load import abstract, translate
    from seqzoo.models.pretrained.rules import bind
    from seqzoo.models.pretrained.slots import slots_of

    width = max(64, int((total / (4 * 8 * 12)) ** 0.5) // 64 * 64)
    config = json.loads((folder("llama") / "config.json").read_text())
    config |= {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 4}
    config |= {"num_hidden_layers": 8, "vocab_size": 8 * width}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    translation = translate(config)
    shapes = {
        name: shape
        for bound in bind(translation.rules, slots_of(abstract(translation)))
        for name, shape in zip(bound.tensors, bound.expected(), strict=True)
    }
    rng, shard, size, where = np.random.default_rng(0), {}, 0, {}
    for i, (name, shape) in enumerate(shapes.items()):
        shard[name] = rng.random(shape, np.float32)
        size += shard[name].nbytes
        if size > 5e8 or i == len(shapes) - 1:
            file = f"part-{len(set(where.values()))}.safetensors"
            where |= dict.fromkeys(shard, file)
            save_file(shard, path / file)
            shard, size = {}, 0
    index = {"metadata": {}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def load(path: Path) -> dict[str, float]:
    """What loading took, of this process."""
    import jax

    from seqzoo.models import from_pretrained
    from seqzoo.models.pretrained.folder import open_checkpoint

    from_pretrained(folder("llama"))  # what is imported and compiled once
    sizes = [t.bytes() for t in open_checkpoint(path).tensors.values()]
    before, begin = _resident(), time.perf_counter()
    model = from_pretrained(path)
    jax.block_until_ready(model)
    seconds = time.perf_counter() - begin
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    total, largest = math.fsum(sizes), max(sizes)
    return {"total": total, "largest": largest, "peak": peak, "seconds": round(seconds, 1)}


def _resident() -> int:
    """Bytes that this process holds, without what was freed and would be used again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(total: float) -> dict[str, float]:
    """`load` of a checkpoint of `total` bytes, in a fresh process."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        write(path, total)
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else MODULE, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


MODULE = "tests.models.pretrained.memory"

if __name__ == "__main__":
    argument = sys.argv[1]
    made = load(Path(argument)) if Path(argument).is_dir() else measure(float(argument))
    print(json.dumps(made))
