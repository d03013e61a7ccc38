"""What a run reads: its training batches from any step on, its held-out splits again and again.

The models of a comparison share one `RunData`, which keeps as much in memory as it is told to, so
that later models need not wait for what an earlier one has read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

from jax.sharding import Mesh

from seqzoo.tasks.data.shared_rows import Packing, packing_for, side_by_side
from seqzoo.tasks.task import Source
from seqzoo.train.config import Experiment
from seqzoo.train.devices.sharding import BATCH_AXES, batch_sharding
from seqzoo.train.loop.data import (
    HostBatch,
    eval_batches,
    rows_of_process,
    seeds_of_process,
    train_batches,
)

KEPT_BYTES = 2**28  # of host batches that the runs of a comparison keep, of each split


class Kept:
    """A stream of host batches that can be read again; the first of them stay in memory.

    Args:
        start: gives the stream from batch n on.
        limit: bytes that are kept.
    """

    def __init__(self, start: Callable[[int], Iterator[HostBatch]], limit: int = KEPT_BYTES):
        self._start, self._limit = start, limit
        self._batches: list[HostBatch] = []
        self._bytes = self._last = 0  # of all that is kept; of the newest batch

    def __iter__(self) -> Iterator[HostBatch]:
        return self.beginning(0)

    def beginning(self, first: int) -> Iterator[HostBatch]:
        """The stream from batch `first` on."""
        yield from self._batches[first:]
        position = max(first, len(self._batches))
        for batch in self._start(position):
            size = self._last = sum(x.nbytes for x in batch.values())
            if position == len(self._batches) and self._bytes + size <= self._limit:
                self._batches.append(batch)
                self._bytes += size
            position += 1
            yield batch

    def fill(self, count: int) -> None:
        """Reads up to `count` batches ahead, as far as they fit; no model then waits for them."""
        if self._limit:
            for _ in itertools.islice(self, count):
                if self._bytes + self._last > self._limit:
                    break


class RunData:
    """The batches of an experiment, those rows of them that this process's devices hold.

    Args:
        experiment: whose; of several replicas the training batches lie in front of each other.
        mesh: over which the rows are divided.
        keep: bytes of each split that stay in memory; 0: none.
    """

    def __init__(self, experiment: Experiment, mesh: Mesh, *, keep: int = 0):
        self._experiment, self._keep = experiment, keep
        self._sharding = batch_sharding(mesh)
        self._shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        self._held_out: dict[str, tuple[Kept, int]] = {}
        self._train: Kept | None = None

    @property
    def train(self) -> Kept:
        """Training batches, endless."""
        if self._train is None:
            self._train = Kept(self._stream(), self._keep)
        return self._train

    def whole(self, split: str) -> tuple[Iterable[HostBatch], int]:
        """Batches over a whole held-out split, and its number of examples."""
        if split not in self._held_out:
            source = self._source(split)
            self._held_out[split] = Kept(self.over(source), self._keep), len(source)
        return self._held_out[split]

    def over(self, source: Source) -> Callable[[int], Iterator[HostBatch]]:
        """Batches over a whole source from batch n on.

        Rows that only fill the last batch weigh nothing, so it may be a little larger.
        """
        train, lanes = self._experiment.train, self._experiment.task.stateful
        wanted = train.eval_batch_size or train.batch_size
        size = -(-wanted // self._shards) * self._shards
        options = {"rows": rows_of_process(self._sharding, size), "lanes": lanes, **self._reading}
        options["packing"] = self._packing(source, size)
        return lambda n: itertools.islice(eval_batches(source, size, **options), n, None)

    @property
    def _reading(self) -> dict[str, int]:
        train = self._experiment.train
        return {"threads": train.threads, "prefetch": train.prefetch}

    def _source(self, split: str, seed: int = 0) -> Source:
        """The split, prepared once if it will be read more than once."""
        task, train = self._experiment.task, self._experiment.train
        source = task.source(split, seed)
        if split == "train":
            reads = train.steps * train.batch_size / len(source)
        else:
            reads = train.steps / (train.eval_every or train.steps) + (self._keep > 0)
        return task.prepare(split, seed) if reads > 1 else source

    def _packing(self, source: Source, size: int, accumulate: int = 1) -> Packing | None:
        length = self._experiment.packed_length
        if not length:
            return None
        options = {"shards": self._shards, "accumulate": accumulate}
        packing = packing_for(source, size, length, **options)
        own = packing and rows_of_process(self._sharding, packing.rows)
        return packing and dataclasses.replace(packing, own=own)

    def _stream(self) -> Callable[[int], Iterator[HostBatch]]:
        train = self._experiment.train
        every = self._experiment.seeds
        own = [every[i] for i in seeds_of_process(self._sharding.mesh, train.replicas)]
        # Processes read others' seeds too where all must know whether every batch has room.
        read = every if self._experiment.packed_length else own
        seeds = list(dict.fromkeys(read))  # trials of one seed share its rows
        sources = [self._source("train", seed) for seed in seeds]
        rows = rows_of_process(self._sharding, train.batch_size)
        packing = self._packing(sources[0], train.batch_size, train.accumulate)

        def start(position: int) -> Iterator[HostBatch]:
            streams = [
                train_batches(
                    source,
                    train.batch_size,
                    seed=seed,
                    start=position,
                    rows=rows,
                    lanes=self._experiment.task.stateful,
                    packing=packing,
                    **self._reading,
                )
                for source, seed in zip(sources, seeds, strict=True)
            ]
            if train.replicas == 1:
                return streams[0]
            places = [seeds.index(seed) for seed in own]
            return (side_by_side(parts, places) for parts in zip(*streams, strict=True))

        return start
