"""From a task's source to batches on devices, through Grain.

The global batch of step n is rows [n B, (n + 1) B) of one endless order that depends on the seed
alone. A process reads the rows that its own devices hold, whatever the number of processes, so the
position in the data is the step count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from seqzoo.tasks.data.shared_rows import PACKED, PackedBatches, Packing
from seqzoo.tasks.task import Example, Source, Task
from seqzoo.train.devices.sharding import replica_axis

HostBatch = dict[str, np.ndarray]

# Grain's own length of an endless dataset is the largest integer, which it then divides as a float.
ENDLESS = 2**52


def train_batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    rows: Sequence[int] | None = None,
    lanes: bool = False,
    packing: Packing | None = None,
    threads: int = 1,
    prefetch: int = 8,
) -> Iterator[HostBatch]:
    """Endless host batches from step `start`, shuffled anew in each epoch.

    Args:
        source: examples; `weight` 1 is added.
        batch_size: examples of a step over all processes.
        seed: of the order.
        start: steps already done.
        rows: those of each global batch that are wanted here; all by default.
        lanes: not shuffled: row i of a batch continues row i of the one before, for a state that
            is carried; `fresh` marks rows that start again.
        packing: has the tables of packed rows added.
        threads: reading threads; 0 reads when asked.
        prefetch: batches read ahead.
    """
    if lanes:
        order: Source = _Lanes(source, batch_size, endless=True)
    else:
        order = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    rows = range(batch_size) if rows is None else rows
    return _batches(order, batch_size, rows, packing, start, threads, prefetch)


def eval_batches(
    source: Source,
    batch_size: int,
    *,
    rows: Sequence[int] | None = None,
    lanes: bool = False,
    packing: Packing | None = None,
    threads: int = 1,
    prefetch: int = 8,
) -> Iterator[HostBatch]:
    """The whole split in order (or in `lanes`); rows that only fill batches have `weight` 0."""
    rows = range(batch_size) if rows is None else rows
    padded = (_Lanes if lanes else _Padded)(source, batch_size)
    return _batches(padded, batch_size, rows, packing, 0, threads, prefetch)


def rows_of_process(sharding: NamedSharding, batch_size: int) -> Sequence[int]:
    """The rows of a global batch that this process's devices hold, in ascending order.

    On a pod they need not be neighbours: a mesh follows the wiring of the chips.
    """
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for place in places for row in range(*place[0].indices(batch_size))})


def seeds_of_process(mesh: Mesh, count: int) -> Sequence[int]:
    """The places, of `count` replicas, that this process's devices hold."""
    return rows_of_process(NamedSharding(mesh, PartitionSpec(replica_axis(mesh, count))), count)


def to_devices(batch: HostBatch, sharding: NamedSharding) -> HostBatch | dict[str, Array]:
    """The global batch of which every process holds its rows, for a compiled function."""
    if sharding.mesh.size == 1:
        return batch  # a compiled function moves NumPy arrays to its one device by itself, faster
    return jax.make_array_from_process_local_data(sharding, batch)


def batch_shapes(
    task: Task,
    batch_size: int,
    sharding: NamedSharding,
    length: int = 0,
    packing: Packing | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch as they lie on devices; `length` tokens a row instead of its."""
    own = task.spec.length
    example = {**task.source("train")[0], "weight": np.float32(1)}

    def shape(value: np.ndarray) -> jax.ShapeDtypeStruct:
        value = np.asarray(value)
        row = [length if length and n == own else n for n in value.shape]
        kind = jax.dtypes.canonicalize_dtype(value.dtype)
        return jax.ShapeDtypeStruct((batch_size, *row), kind, sharding=sharding)

    made = {name: shape(value) for name, value in example.items()}
    if packing is not None:
        shapes = (packing.rows, packing.length), made["segment_ids"].shape
        kinds = (jax.ShapeDtypeStruct(size, np.int32, sharding=sharding) for size in shapes)
        made |= dict(zip(PACKED, kinds, strict=True))
    return made


def _batches(
    order: Source,
    size: int,
    rows: Sequence[int],
    packing: Packing | None,
    start: int,
    threads: int,
    prefetch: int,
) -> Iterator[HostBatch]:
    if packing is None:
        dataset = grain.MapDataset.source(_Rows(order, size, rows)).batch(len(rows))
    else:
        dataset = grain.MapDataset.source(PackedBatches(order, size, rows, packing))
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=prefetch if threads else 0
    )
    return iter(dataset[start:].to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some rows of each global batch, one after another."""

    source: Source
    batch_size: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return min(len(self.source), ENDLESS) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        batch, row = divmod(int(index), len(self.rows))
        example = self.source[batch * self.batch_size + self.rows[row]]
        return {"weight": np.float32(1), **example}

    def __repr__(self) -> str:
        return f"{len(self.rows)} rows from {self.rows[0]} of {self.batch_size}"


@dataclasses.dataclass(frozen=True)
class _Padded:
    """A split filled up to whole batches with copies of weight 0."""

    source: Source
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size) * self.batch_size

    def __getitem__(self, index: int) -> Example:
        real = index < len(self.source)
        return {**self.source[index if real else 0], "weight": np.float32(real)}


@dataclasses.dataclass(frozen=True)
class _Lanes:
    """A source in `lanes` equal parts: row i of batch t is example t of part i.

    Endless: what is left over is not read, and after the end each lane starts again. Otherwise the
    last lanes are filled up with copies of weight 0. `fresh` marks the first example of a lane.
    """

    source: Source
    lanes: int
    endless: bool = False

    def __post_init__(self) -> None:
        if self._length == 0:
            raise ValueError(
                f"{len(self.source)} rows cannot be divided into {self.lanes} lanes; "
                "choose a smaller batch_size or length"
            )

    @property
    def _length(self) -> int:
        size = len(self.source)
        return size // self.lanes if self.endless else -(-size // self.lanes)

    def __len__(self) -> int:
        return ENDLESS if self.endless else self._length * self.lanes

    def __getitem__(self, index: int) -> Example:
        step, lane = divmod(int(index), self.lanes)
        at = step % self._length
        place = lane * self._length + at
        real = place < len(self.source)
        example = self.source[place if real else 0]
        return {**example, "fresh": np.bool_(at == 0), "weight": np.float32(real)}
