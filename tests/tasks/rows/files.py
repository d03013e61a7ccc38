"""Four files as people have them, and what `rows` is told of each."""

import csv
import json

import numpy as np


def sensors(path):
    """A long CSV: six series of different lengths, two channels, one class a series, two sites."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["series", "site", "t", "x", "y", "state"])
        for series in range(40):
            for t in range(5 + series % 4):
                x, y = rng.normal(size=2) + 3 * (series % 2)
                state = "ill" if series % 2 else "well"
                out.writerow([f"s{series}", series // 4, t, round(x, 4), round(y, 4), state])
    return {"inputs": "x,y", "target": "state", "series": "series", "group": "site"}


def reviews(path):
    """A Parquet of texts with a class, and a column that says the split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ["good", "fine", "bad", "sad"]
    rows = [
        {
            "text": " ".join(words[(i + k) % 2 + 2 * (i % 2)] for k in range(1 + i % 3)),
            "stars": i % 2,
            "part": ["train", "train", "dev", "test"][i // 2 % 4],
        }
        for i in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return {"inputs": "text", "target": "stars", "split": "part"}


def documents(path):
    """JSON lines of documents for language modelling."""
    rows = [{"id": i, "body": "abc" * (3 + i % 5)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"inputs": "body", "kind": "lm", "length": 8}


def channels(path):
    """An NPZ of padded rows with three channels, their lengths, and two numbers to predict."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 7, 30)
    x = rng.normal(size=(30, 6, 3)).astype(np.float32)
    y = np.stack([x.sum((1, 2)), lengths], 1)
    np.savez(path, x=x, y=y, n=lengths)
    return {"inputs": "x", "target": "y", "kind": "regress", "lengths": "n"}


FILES = {
    "sensors.csv": sensors,
    "reviews.parquet": reviews,
    "documents.jsonl": documents,
    "channels.npz": channels,
}
