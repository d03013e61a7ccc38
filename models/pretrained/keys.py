"""A config.json that keeps count of what was read of it.

A key that changes what a model computes is read or refused by name: what is left over at the end is
an error, apart from `BOOKKEEPING`, which changes no output of a trained model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MISSING = object()

# Training, generation and the library's own business.
BOOKKEEPING = re.compile(
    r"_.*|transformers_version|model_type|architectures|auto_map|torchscript|name_or_path"
    r"|(bos|eos|pad|sep|unk|cls|mask|decoder_start)_token_id|dtype|torch_dtype"
    r"|.*dropout(_\w+)?|\w+_pdrop|initializer_\w+|\w*init_(range|std|scheme|variance_scale)"
    r"|router_(aux_loss_coef|jitter_noise)|rescale_prenorm_residual"
    r"|id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params|summary_\w+"
    r"|output_(attentions|hidden_states|router_logits)|return_dict\w*|use_cache|use_return_dict"
    r"|use_(bfloat16|mambapy|associative_scan|mamba_kernels)|chunk_size_feed_forward"
    r"|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_[kp]"
    r"|typical_p|\w*repetition_penalty|length_penalty|no_repeat_ngram_size|bad_words_ids"
    r"|(min|max)_length|num_return_sequences|output_scores|forced_\w+|remove_invalid_values"
    r"|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens|prefix|tokenizer_class"
    r"|gradient_checkpointing|pretraining_tp|fuse_\w+"
)


class Keys:
    """The keys of one config, each read by a method that checks its kind."""

    def __init__(self, config: Mapping[str, Any], where: str):
        """`where`: the file, for errors."""
        self.config, self.where = config, where
        self.read: set[str] = set()

    def raw(self, name: str, default: Any = MISSING) -> Any:
        """The value as it stands. Raises ValueError where it is missing and has no default."""
        self.read.add(name)
        if name in self.config:
            return self.config[name]
        if default is MISSING:
            raise ValueError(f"{self.where} lacks {name!r}")
        return default

    def size(self, name: str, default: Any = MISSING) -> Any:
        """An integer of at least 1, or the default where it is missing or null."""
        value = self._value(name, default)
        if value is default:
            return default
        return self._checked(name, value, type(value) is int and value > 0, "a size, 1 or more")

    def count(self, name: str, default: Any = MISSING) -> Any:
        """An integer of at least 0, or the default where it is missing or null."""
        value = self._value(name, default)
        if value is default:
            return default
        return self._checked(name, value, type(value) is int and value >= 0, "a count, 0 or more")

    def number(self, name: str, default: Any = MISSING) -> Any:
        """A finite number, or the default where it is missing or null."""
        value = self._value(name, default)
        if value is default:
            return default
        right = type(value) in (int, float) and abs(value) < float("inf")
        return float(self._checked(name, value, right, "a number"))

    def flag(self, name: str, default: Any = MISSING) -> bool:
        """True or false."""
        value = self.raw(name, default)
        return self._checked(name, value, type(value) is bool, "true or false")

    def choice(self, name: str, known: Mapping[str, Any], default: Any = MISSING) -> Any:
        """What `known` has under the value. Raises ValueError for another value."""
        value = self.raw(name, default)
        if not isinstance(value, str) or value not in known:
            raise ValueError(
                f"{self.where}: {name}={value!r} is not handled (known: {', '.join(known)})"
            )
        return known[value]

    def fixed(self, **only: Any) -> None:
        """Keys that may be missing, or have just this value. Raises ValueError for another."""
        for name, value in only.items():
            found = self.raw(name, value)
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                raise ValueError(
                    f"{self.where}: {name}={found!r} is not handled (only {value!r} is)"
                )

    def ignore(self, *names: str) -> None:
        """Keys of this family that change no output."""
        self.read.update(names)

    def sub(self, name: str, default: Any = MISSING) -> Keys | None:
        """The keys of an object inside, to be finished on their own; None for null."""
        value = self.raw(name, default)
        if value is None:
            return None
        self._checked(name, value, isinstance(value, dict), "an object")
        return Keys(value, f"{self.where}: {name}")

    def finish(self) -> None:
        """Raises ValueError for keys that nobody read."""
        if "quantization_config" in self.config and "quantization_config" not in self.read:
            raise ValueError(
                f"{self.where} has a quantization_config: quantised weights are not read; load a "
                "checkpoint in float32, float16 or bfloat16"
            )
        left = [k for k in self.config if k not in self.read and not BOOKKEEPING.fullmatch(k)]
        if left:
            shown = ", ".join(f"{k}={self.config[k]!r}" for k in left)
            raise ValueError(
                f"{self.where}: not handled, and they may change the computation: {shown}"
            )

    def _value(self, name: str, default: Any) -> Any:
        value = self.raw(name, default)
        return default if value is None and default is not MISSING else value

    def _checked(self, name: str, value: Any, right: bool, kind: str) -> Any:
        if not right:
            raise ValueError(f"{self.where}: {name} must be {kind}; got {value!r}")
        return value
