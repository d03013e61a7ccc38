"""Losses between views as loops over examples, from the papers, in float64."""

import math

import numpy as np


def cos(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def nt_xent(a, b, temperature):
    """Chen et al. 2020, algorithm 1: z_2k-1 and z_2k are the views of example k."""
    z = [x for pair in zip(a, b, strict=True) for x in pair]
    count = len(z)

    def ell(i, j):
        others = [math.exp(cos(z[i], z[k]) / temperature) for k in range(count) if k != i]
        return -math.log(math.exp(cos(z[i], z[j]) / temperature) / sum(others))

    return [(ell(i, i + 1) + ell(i + 1, i)) / 2 for i in range(0, count, 2)]


def info_nce(query, key, queue, temperature):
    """He et al. 2019, algorithm 1."""
    found = []
    for q, k in zip(query, key, strict=True):
        positive = math.exp(cos(q, k) / temperature)
        negative = sum(math.exp(float(q @ n) / math.sqrt(q @ q) / temperature) for n in queue)
        found.append(-math.log(positive / (positive + negative)))
    return found


def sinkhorn(scores, sharpness, rounds):
    """Caron et al. 2020, algorithm 1 of appendix A.1: Q is [prototypes, examples]."""
    q = np.array([[math.exp(s / sharpness) for s in row] for row in scores]).T
    q /= q.sum()
    prototypes, examples = q.shape
    for _ in range(rounds):
        for i in range(prototypes):
            q[i] *= 1 / prototypes / q[i].sum()
        for j in range(examples):
            q[:, j] *= 1 / examples / q[:, j].sum()
    return np.array([q[:, j] / q[:, j].sum() for j in range(examples)])


def softmax(x, temperature):
    x = np.exp((x - x.max()) / temperature)
    return x / x.sum()


def cross_entropy(target, scores, temperature):
    return -sum(t * math.log(p) for t, p in zip(target, softmax(scores, temperature), strict=True))


def swav(scores, targets, sharpness, temperature, rounds):
    """Scores [B, V, P]: every view tells the codes of each of the first ones but its own."""
    examples, views, _ = scores.shape
    total = np.zeros(examples)
    count = 0
    for t in range(targets):
        codes = sinkhorn(scores[:, t], sharpness, rounds)
        for v in range(views):
            if v != t:
                count += 1
                for b in range(examples):
                    total[b] += cross_entropy(codes[b], scores[b, v], temperature)
    return total / count


def dino(student, teacher, centre, temperature, target_temperature):
    """Caron et al. 2021, algorithm 1, with its multi-crop loss (eq. 3)."""
    found = []
    for s, t in zip(student, teacher, strict=True):
        terms = [
            cross_entropy(softmax(t[i] - centre, target_temperature), s[j], temperature)
            for i in range(len(t))
            for j in range(len(s))
            if i != j
        ]
        found.append(sum(terms) / len(terms))
    return found


def byol(predicted, target):
    """Grill et al. 2020, eq. 2 and its mirror image: both are added."""
    pairs = zip(predicted, target, strict=True)
    return [(2 - 2 * cos(p[0], z[1])) + (2 - 2 * cos(p[1], z[0])) for p, z in pairs]


def simsiam(predicted, projected):
    """Chen and He 2020, eq. 2."""
    pairs = zip(predicted, projected, strict=True)
    return [-cos(p[0], z[1]) / 2 - cos(p[1], z[0]) / 2 for p, z in pairs]


def effective_rank(z):
    values = np.linalg.svd(z, compute_uv=False)
    share = [v / values.sum() for v in values if v > 1e-9 * values[0]]
    return math.exp(-sum(p * math.log(p) for p in share))


def spread(z):
    z = np.array([x / math.sqrt(x @ x) for x in z])
    return float(np.mean([np.std(column) for column in z.T]) * math.sqrt(z.shape[1]))
