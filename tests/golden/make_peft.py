"""Makes tests/golden/peft: adapters with random weights, saved and run by the PEFT library.

    pip install torch transformers peft
    python tests/golden/make_peft.py

Run once, by torch 2.13.0+cpu, transformers 5.24.0 and peft 0.21.2. What is there stays.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

FOLDER = Path(__file__).parent
CASES = {
    "llama_lora": (
        "llama",
        {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 7}},
    ),
    "gpt2_dora": (
        "gpt2",
        {"r": 2, "lora_alpha": 3, "target_modules": ["c_attn", "c_fc"]},
        {"use_dora": True, "fan_in_fan_out": True},
    ),
}


def make(name: str) -> None:
    """One adapter with what its model gives."""
    base, options, more = CASES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "hf" / base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**options, **more)).eval()
    with torch.no_grad():
        for path, value in model.named_parameters():
            if "lora_B" in path:
                value.normal_(std=0.5)
            if "magnitude" in path:
                value.mul_(1 + 0.3 * torch.rand_like(value))
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 37, (2, 13)))
        logits = model(tokens).logits
    out = FOLDER / "peft" / name
    model.save_pretrained(out)
    for path in out.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"hf/{base}"
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    np.savez(out / "io.npz", input_ids=tokens.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    for case in CASES:
        if not (FOLDER / "peft" / case).exists():
            make(case)
