"""Groups of buyers and sellers that trade densely among themselves, by pruning their graph.

Greedy pruning of the least connected node, keeping the densest graph passed on the way: Hooi et al., "FRAUDAR" (KDD
2016), algorithm 1. A tie counts the less the more buyers the seller has, so that trading with popular sellers buys no
camouflage; their proof holds for any such column weight. Theirs is 1 / log(degree + 5), made for reviews, of which
most people write one; buyers of six orders each are dense themselves, and a half-made ring of 20 by 5 was missed
beside them, which 1 / sqrt(degree + 5) finds (`tagbid dmp brushing trial`). A pair counts once, however often it
traded.

A densest block there always is; it is told only if it is denser than any the same buyers and sellers have when who
buys where is shuffled, by the factor `DENSER`. That keeps keen buyers of popular sellers apart from rings.
"""

import heapq

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]

MAX_BLOCKS = 20
DENSER = 1.3
MIN_BUYERS, MIN_SELLERS = 4, 2  # smaller groups are a family and its shop


def dense_blocks(buyer: Codes, seller: Codes, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which orders are between members of one dense block.

    buyer, seller: codes from 0, one pair an order.
    """
    inside = np.zeros(len(buyer), bool)
    pairs, of = np.unique(np.stack([buyer, seller], axis=1), axis=0, return_inverse=True)
    of = of.reshape(-1)
    rng = np.random.default_rng(seed)
    left = np.ones(len(pairs), bool)
    if not len(pairs):
        return inside
    shuffled = np.unique(np.stack([pairs[:, 0], rng.permutation(pairs[:, 1])], axis=1), axis=0)
    usual = _densest(shuffled)[0]
    for _ in range(MAX_BLOCKS):
        density, members = _densest(pairs[left])
        found = np.flatnonzero(left)[members]
        if not len(found) or density < DENSER * usual:
            break
        left[found] = False
        if len(np.unique(pairs[found, 0])) >= MIN_BUYERS and len(np.unique(pairs[found, 1])) >= MIN_SELLERS:
            inside |= np.isin(of, found)
    return inside


def _densest(pairs: Codes) -> tuple[float, npt.NDArray[np.bool_]]:
    """(weight per node, which pairs) of the densest graph that pruning passes."""
    if not len(pairs):
        return 0.0, np.zeros(0, bool)
    buyers, b = np.unique(pairs[:, 0], return_inverse=True)
    _, s = np.unique(pairs[:, 1], return_inverse=True)
    s = s + len(buyers)
    n = int(s.max()) + 1
    weight = 1 / np.sqrt(np.bincount(s, minlength=n)[s] + 5)
    degree = np.bincount(b, weight, n) + np.bincount(s, weight, n)
    touching: list[list[int]] = [[] for _ in range(n)]
    for edge, (one, other) in enumerate(zip(b.tolist(), s.tolist(), strict=True)):
        touching[one].append(edge)
        touching[other].append(edge)
    ends, weights = np.stack([b, s], axis=1).tolist(), weight.tolist()
    value = degree.tolist()
    heap = list(zip(value, range(n), strict=True))
    heapq.heapify(heap)
    gone_at = [0] * n
    total, alive, step = float(weight.sum()), n, 0
    best, best_step = total / n, 0
    while alive > 1:
        held, node = heapq.heappop(heap)
        if gone_at[node] or held > value[node]:
            continue  # pruned already, or has lost partners since: a later entry tells its degree
        step += 1
        gone_at[node] = step
        alive -= 1
        total -= value[node]
        for edge in touching[node]:
            other = ends[edge][0] + ends[edge][1] - node
            if not gone_at[other]:
                value[other] -= weights[edge]
                heapq.heappush(heap, (value[other], other))
        if total / alive > best:
            best, best_step = total / alive, step
    gone = np.array(gone_at)
    stays = (gone == 0) | (gone > best_step)
    return best, stays[b] & stays[s]
