"""Builds, prints as JSON, parses and changes nested data; objects, dictionaries, strings."""
import json
import sys


class Order:
    def __init__(self, number, customer):
        self.number = number
        self.customer = customer
        self.lines = [{"item": f"item-{(number * 7 + i) % 997}", "count": i + 1} for i in range(number % 9)]

    def as_dict(self):
        return {"number": self.number, "customer": self.customer, "lines": self.lines, "note": "x" * (self.number % 700)}


total = 0
kept = {}
for round in range(int(sys.argv[1])):
    orders = [Order(n + round, f"customer {n % 101}") for n in range(3000)]
    text = json.dumps([order.as_dict() for order in orders])
    parsed = json.loads(text)
    by_item = {}
    for order in parsed:
        for line in order["lines"]:
            by_item.setdefault(line["item"], []).append(order["number"] * line["count"])
    kept[round % 5] = by_item
    words = " ".join(f"{item}={sum(counts)}" for item, counts in sorted(by_item.items())).split("-")
    total += len(text) + len("".join(words))
print(total)
