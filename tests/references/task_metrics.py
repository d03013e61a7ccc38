"""Losses and accuracies of tasks as loops."""

import numpy as np


def nll(logits, target):
    return float(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[target])


def classes(logits, targets, weight):
    total = weight.sum()
    loss = sum(w * nll(x, t) for x, t, w in zip(logits, targets, weight, strict=True))
    right = sum(w * (x.argmax() == t) for x, t, w in zip(logits, targets, weight, strict=True))
    return {"loss": loss / total, "accuracy": right / total}


def tokens(logits, targets, weight):
    losses, rights, token_weights, rows, row_weights = [], [], [], [], []
    for x, row, w in zip(logits, targets, weight, strict=True):
        labelled = [i for i, t in enumerate(row) if t != -100]
        right = [x[i].argmax() == row[i] for i in labelled]
        losses += [w * nll(x[i], row[i]) for i in labelled]
        rights += [w * r for r in right]
        token_weights += [w] * len(labelled)
        if labelled:
            rows.append(w * np.mean(right))
            row_weights.append(w)
    return {
        "loss": sum(losses) / sum(token_weights),
        "accuracy": sum(rows) / sum(row_weights),
        "token_accuracy": sum(rights) / sum(token_weights),
    }
