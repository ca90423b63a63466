"""Tables of numbers with numpy: expressions of whole columns, masks, sorts, sums by group."""
import sys

import numpy as np

random = np.random.default_rng(1)
total = 0.0
for round in range(int(sys.argv[1])):
    rows = [20_000, 200_000, 1_000_000, 5_000_000][round % 4]
    prices, amounts = random.random(rows), random.integers(1, 50, rows)
    for tax in (1.07, 1.19):
        revenue = prices * amounts * tax
        scaled = (revenue - revenue.mean()) / revenue.std()
        best = np.sort(revenue[scaled > 1.5][:100_000])
        by_amount = np.bincount(amounts, weights=np.sqrt(revenue) + scaled)
        total += best.cumsum()[-1] + by_amount.max() + np.where(scaled < 0, -scaled, revenue).sum()
print(round, f"{total:.6g}")
