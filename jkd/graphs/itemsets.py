"""Frequent-pattern mining: which items occur together in many transactions."""

import numpy as np

from jkd import _check


def frequent_itemsets(
    transactions: np.ndarray, *, min_support: int, max_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All sets of items that at least so many transactions hold: exact, depth first over sets of transactions (Eclat).

    Args:
      transactions: bool `[T, I]`, which items each transaction holds.
      min_support: number of transactions, at least 1.
      max_size: of an itemset, at least 1; None sets no limit. Without one, a low support can give 2^I sets.

    Returns:
      `(itemsets, supports)`: bool `[P, I]` without the empty set, by size and then lexicographically by the items'
      numbers; int32 `[P]`.

    Raises:
      TypeError: for transactions that are not bool, or sizes that are no integers.
      ValueError: for another number of axes, or sizes below 1.

    Example:
      >>> baskets = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
      >>> sets, supports = frequent_itemsets(baskets, min_support=2)
      >>> [np.flatnonzero(s).tolist() for s in sets], supports.tolist()
      ([[0], [1], [0, 1]], [3, 2, 2])

    Reference:
      Mohammed J. Zaki: Scalable Algorithms for Association Mining. IEEE TKDE 12(3), 2000.
      https://doi.org/10.1109/69.846291
    """
    table = np.asarray(transactions)
    _check.rank("transactions", table, "T I")
    if table.dtype != np.bool_:
        raise TypeError(f"transactions has dtype {table.dtype}; expected bool. Write for example counts > 0.")
    _check.positive_integer("min_support", min_support)
    if max_size is not None:
        _check.positive_integer("max_size", max_size)
    columns = [(item, table[:, item]) for item in range(table.shape[1])]
    found = sorted(_extend((), columns, min_support, max_size), key=lambda each: (len(each[0]), each[0]))
    itemsets = np.zeros((len(found), table.shape[1]), bool)
    for row, (items, _) in enumerate(found):
        itemsets[row, list(items)] = True
    return itemsets, np.array([support for _, support in found], np.int32)


def _extend(
    prefix: tuple[int, ...], candidates: list[tuple[int, np.ndarray]], least: int, most: int | None
) -> list[tuple[tuple[int, ...], int]]:
    """The frequent sets that begin with a prefix; candidates come with the transactions that hold prefix and item."""
    frequent = [(item, held) for item, held in candidates if held.sum() >= least]
    found = []
    for place, (item, held) in enumerate(frequent):
        items = (*prefix, item)
        found.append((items, int(held.sum())))
        if most is None or len(items) < most:
            found += _extend(items, [(other, held & theirs) for other, theirs in frequent[place + 1 :]], least, most)
    return found
