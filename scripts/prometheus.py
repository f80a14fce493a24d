"""Reads what /metrics answers (Prometheus' text format), without the prefix all our names have."""

import re

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def parse(text):
    """{(name, labels): value}; labels are a sorted tuple of pairs."""
    values = {}
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            labels = tuple(sorted(LABEL.findall(match[2] or "")))
            values[match[1].removeprefix("baton_"), labels] = float(match[3])
    return values


def histogram(values, name):
    """A histogram's cumulative counts by upper bound, over all its labels."""
    buckets = {}
    for (metric, labels), value in values.items():
        if metric == f"{name}_bucket":
            bound = float(dict(labels)["le"])
            buckets[bound] = buckets.get(bound, 0) + value
    return buckets


def quantile(buckets, share):
    """Interpolated within its bucket, in the histogram's unit; None of nothing, and the highest bound of what is above
    it."""
    lower, below = 0.0, 0
    total = max(buckets.values(), default=0)
    if not total:
        return None
    for bound, count in sorted(buckets.items()):
        if count >= share * total:
            return lower if bound == float("inf") else lower + (bound - lower) * (share * total - below) / (count - below)
        lower, below = bound, count
    return lower
