"""Decoding beside the transformers library, on this machine's CPU, in one run.

    python docs/decode.py --theirs VENV/bin/python      # an environment with torch and transformers

Mamba and Llama of about 130 million parameters with random weights, float32, one row, greedy. Each
side draws in turns, so that whatever else the machine does is felt by both; seconds of a token are
those between two lengths of text, so that neither prompt nor compilation is in them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PROMPT, SHORT, LONG, ROUNDS = 16, 2, 18, 3  # tokens; turns
MODELS: dict[str, dict[str, Any]] = {
    "mamba": {
        "architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 768,
        "num_hidden_layers": 24, "state_size": 16, "vocab_size": 50280,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048,
        "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
}  # fmt: skip
THEIRS = """
import sys, time, torch
from transformers import AutoModelForCausalLM
folder, prompt = sys.argv[1], int(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokens = torch.arange(prompt)[None] + 5
def draw(n):
    begin = time.perf_counter()
    with torch.inference_mode():
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n,
                       min_new_tokens=n, do_sample=False, pad_token_id=0)
    return time.perf_counter() - begin
draw(2)
for line in sys.stdin:
    print(draw(int(line)), flush=True)
"""


def make(name: str, folder: Path) -> None:
    """A checkpoint with random weights."""
    from safetensors.numpy import save_file

    from seqzoo.models.pretrained.load import abstract, translate
    from seqzoo.models.pretrained.rules import bind
    from seqzoo.models.pretrained.slots import slots_of

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODELS[name]))
    translation = translate(MODELS[name])
    rng, arrays = np.random.default_rng(0), {}
    for bound in bind(translation.rules, slots_of(abstract(translation))):
        for tensor, shape in zip(bound.tensors, bound.expected(), strict=True):
            draw = 0.02 * rng.standard_normal(shape, np.float32)
            arrays[tensor] = draw + ("norm" in tensor)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    print(
        f"{name}: {sum(a.size for a in arrays.values()) / 1e6:.0f} million parameters", flush=True
    )


def ours(folder: Path):
    """What draws some tokens and tells the seconds."""
    import jax

    from seqzoo.models import from_pretrained, generate

    model = from_pretrained(folder, max_length=128, scan=False)  # as `seqzoo generate`
    prompt = np.arange(PROMPT) + 5

    def draw(count: int) -> float:
        begin = time.perf_counter()
        for _ in generate(model, [prompt], count, jax.random.key(0), temperature=0.0):
            pass
        return time.perf_counter() - begin

    draw(2)
    return draw


def main() -> None:
    """Prints milliseconds of a token, and the ratio of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--theirs", required=True, help="a Python with torch and transformers")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as where:
        for name in options.models:
            folder = Path(where) / name
            make(name, folder)
            argv = [options.theirs, "-c", THEIRS, str(folder), str(PROMPT)]
            with subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            ) as process:

                def theirs(count: int, process=process) -> float:
                    print(count, file=process.stdin, flush=True)
                    return float(process.stdout.readline())

                sides = {"ours": ours(folder), "theirs": theirs}
                found: dict[str, list[float]] = {side: [] for side in sides}
                for _ in range(ROUNDS):
                    for side, draw in sides.items():
                        short = draw(SHORT)
                        found[side].append((draw(LONG) - short) / (LONG - SHORT) * 1e3)
                process.stdin.close()
            middle = {side: statistics.median(times) for side, times in found.items()}
            for side, times in found.items():
                print(f"  {side}: {middle[side]:.1f} ms a token ({min(times):.1f} at best)")
            ratio = middle["theirs"] / middle["ours"]
            print(f"  {name}: {ratio:.2f} times as fast", flush=True)


if __name__ == "__main__":
    sys.exit(main())
