"""Contrastive predictive coding: later patches of a row from its patches so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.pretraining.base import Pretraining
from seqzoo.tasks.task import Example, Metrics, Split, check_count, example_weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Pretraining):
    """Contrastive predictive coding (van den Oord et al. 2018), within each row.

    The context at the end of a patch of inputs tells the patches 1 to `steps` further on from all
    others of the row (InfoNCE). Differs from the paper: a patch is encoded by one linear map of its
    embedded inputs, and wrong answers come from the same row alone, so that the loss of a row does
    not depend on its batch.
    """

    objective: ClassVar[str] = "cpc"
    cite: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748"
    extra_tokens: ClassVar[int] = 0
    main_metric: ClassVar[str] = "accuracy"

    patch: int = 8  # inputs of a patch
    steps: int = 4  # patches ahead
    dim: int = 32  # width in which patches are compared

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "steps")
        check_count(self, "dim")
        check_count(self, "patch", most=self.of.spec.length // (self.steps + 1))

    @property
    def spec(self) -> ModelSpec:
        """A head that gives each patch's code and the predictions of later ones."""
        spec = self.of.spec
        return ModelSpec(
            head="contrast",
            outputs=self.dim,
            length=spec.length,
            vocab_size=spec.vocab_size,
            features=spec.features,
            packed=spec.packed,
            causal=True,
            patch=self.patch,
            steps=self.steps,
        )

    def _example(self, inputs: np.ndarray, ids: np.ndarray, draws: Draws) -> Example:
        return {"inputs": inputs, "targets": np.int32(0)}

    def measure(self, outputs: Float[Array, "B P K E"], batch: Mapping[str, Array]) -> Metrics:
        """InfoNCE in nats and how often the right patch comes first, over all predictions."""
        codes, predictions = outputs[:, :, 0], outputs[:, :, 1:]
        patches, owner = codes.shape[1], self._owners(batch, outputs)
        weight = example_weight(batch)
        loss = right = count = jnp.zeros(())
        for k in range(1, min(self.steps, patches - 1) + 1):
            scores = jnp.einsum("BPE,BQE->BPQ", predictions[:, :-k, k - 1], codes)
            scores = jnp.where(owner[:, None] > 0, scores / math.sqrt(self.dim), -jnp.inf)
            told = (owner[:, :-k] > 0) & (owner[:, :-k] == owner[:, k:])
            scores = jnp.where(told[..., None], scores, 0)
            place = jnp.arange(patches - k) + k
            picked = jnp.take_along_axis(scores, place[None, :, None], axis=2)[..., 0]
            share = told * weight[:, None]
            nats = jax.nn.logsumexp(scores, axis=-1) - picked
            loss += jnp.sum(jnp.where(share > 0, nats, 0) * share)
            right += jnp.sum((scores.argmax(-1) == place) * share)
            count += share.sum()
        return {"loss": (loss, count), "accuracy": (right, count)}

    def _owners(self, batch: Mapping[str, Array], outputs: Array) -> Array:
        """The segment id of each patch, 0 where it holds padding or a border."""
        rows, patches = outputs.shape[:2]
        if "segment_ids" not in batch:
            return jnp.ones((rows, patches), jnp.int32)
        ids = batch["segment_ids"][:, : patches * self.patch].reshape(rows, patches, self.patch)
        return jnp.where((ids == ids[..., :1]).all(-1), ids[..., 0], 0)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A guess among the patches of a full row."""
        self.effective_seed(split, 0)
        return {"chance": 1 / (self.of.spec.length // self.patch)}
