"""Batches whose examples share rows, so that no step works on padding.

A packed batch holds exactly the examples of the batch that it stands for, in the same order, and
with them two tables (`models.ops.layout.packed.Packed`). How many packed rows a batch has is fixed
before the first step, from lengths that the source shows; the few batches that need more are left
as they are. Both forms give the same numbers, so what a run computes does not depend on that count.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from seqzoo.tasks.task import Example, Source

PACKED = ("packed_tokens", "packed_places")  # the names of the tables in a batch
SEEN, DRAWN = 512, 200  # examples whose lengths are looked at, batches that are drawn from them


@dataclasses.dataclass(frozen=True)
class Packing:
    """How batches of one size are packed.

    Attributes:
        rows: packed rows of a batch.
        length: places of a packed row.
        shards: devices that each pack their own part of a batch.
        accumulate: microbatches, each of every `accumulate`-th row, that are packed by themselves.
        own: the packed rows that are wanted here.
    """

    rows: int
    length: int
    shards: int = 1
    accumulate: int = 1
    own: Sequence[int] = ()

    def tables(self, valid: Bool[np.ndarray, "B *T L"]) -> dict[str, np.ndarray] | None:
        """Both tables of a batch with these real tokens; None where it has no room."""
        count = len(valid)
        tokens = np.full((self.rows, self.length), -1, np.int32)
        places = np.full(valid.shape, -1, np.int32)
        groups = (_groups(n, self.shards, self.accumulate) for n in (self.rows, count))
        for rows, members in zip(*groups, strict=True):
            items = valid[members].reshape(-1, valid.shape[-1])
            bins = best_fit(items.sum(-1).tolist(), self.length)
            if len(bins) > len(rows):
                return None
            tokens[rows], own = _fill(items, bins, (len(rows), self.length))
            places[members] = own.reshape(places[members].shape)
        return dict(zip(PACKED, (tokens[list(self.own)], places), strict=True))


def packing_for(
    source: Source, batch_size: int, length: int, *, shards: int = 1, accumulate: int = 1
) -> Packing | None:
    """Rows enough for nearly all batches of this source; None where packing saves nothing."""
    seen = [source[i] for i in range(min(SEEN, len(source)))]
    sizes = np.stack([(np.asarray(example["segment_ids"]) > 0).sum(-1) for example in seen])
    draw, parts = np.random.default_rng(0), shards * accumulate
    size = batch_size // parts
    needs = np.array(
        [
            max(
                len(best_fit(draw.choice(sizes, size).ravel().tolist(), length))
                for _ in range(parts)
            )
            for _ in range(DRAWN)
        ]
    )
    whole = size * np.asarray(seen[0]["segment_ids"]).size
    # Batches without room are as large as without packing: the mean of all shall be least.
    rows = min(set(needs.tolist()), key=lambda n: np.where(needs <= n, n * length, whole).mean())
    return Packing(rows * parts, length, shards, accumulate) if rows * length < whole else None


@dataclasses.dataclass(frozen=True)
class PackedBatches:
    """Whole batches with their tables: those rows of them that are wanted here.

    All processes read all rows of a batch, as together they must know whether it has room.
    """

    source: Source
    batch_size: int
    rows: Sequence[int]
    packing: Packing

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def __getitem__(self, index: int) -> Example:
        first = int(index) * self.batch_size
        read = [self.source[first + i] for i in range(self.batch_size)]
        valid = np.stack([example["segment_ids"] for example in read]) > 0
        here = [{"weight": np.float32(1), **read[i]} for i in self.rows]
        batch = {name: np.stack([example[name] for example in here]) for name in here[0]}
        tables = self.packing.tables(valid)
        if tables is not None:
            tokens, places = (tables[name] for name in PACKED)
            batch |= dict(zip(PACKED, (tokens, places[list(self.rows)]), strict=True))
        return batch

    def __repr__(self) -> str:
        return f"batches of {self.batch_size} in {self.packing.rows} rows"


def side_by_side(parts: Sequence[Example], places: Sequence[int]) -> Example:
    """The parts at these places in front of each other; packed if all parts are."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.stack([parts[place][name] for place in places]) for name in shared}


def _groups(count: int, shards: int, accumulate: int) -> Int[np.ndarray, "groups members"]:
    """The rows of each part, of `count` rows: a shard has neighbours, a microbatch has strides."""
    rows = np.arange(count).reshape(shards, -1, accumulate)
    return rows.transpose(0, 2, 1).reshape(shards * accumulate, -1)


def _fill(
    items: Bool[np.ndarray, "N L"], bins: list[list[int]], shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "R M"], Int[np.ndarray, "N L"]]:
    """The tables of one group."""
    tokens, places = np.full(shape, -1, np.int32), np.full(items.shape, -1, np.int32)
    for row, members in enumerate(bins):
        found = [np.flatnonzero(items[item]) + item * items.shape[1] for item in members]
        joined = np.concatenate(found)
        tokens[row, : len(joined)] = joined
        places.flat[joined] = row * shape[1] + np.arange(len(joined))
    return tokens, places


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of items whose lengths sum to at most `capacity`, by best fit from the longest down.

    Bins are ordered by their first item, items rise within a bin. Raises ValueError for a length
    above the capacity.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"an item of {max(lengths)} does not fit into {capacity}")
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # room left -> bins
    rooms: list[int] = []  # the keys of `with_room`, rising
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_left(rooms, lengths[item])
        if place == len(rooms):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        bins[chosen].append(item)
        room -= lengths[item]
        if room:
            if room not in with_room:
                bisect.insort(rooms, room)
            with_room.setdefault(room, []).append(chosen)
    return sorted((sorted(items) for items in bins), key=lambda items: items[0])
