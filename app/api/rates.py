"""Rate limits per client: token buckets in memory. Each process holds its stated share, so processes never multiply."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from app.api.problems import TooManyRequests

MOST_BUCKETS = 10_000


@dataclass(slots=True)
class Bucket:
    """What a client has left, and when that was counted."""

    left: float
    at: float
    refused: bool = False


class Rates:
    """One kind of limit: `quota` requests in `window` seconds per client, over all `processes`."""

    def __init__(self, name: str, quota: int, window: int, processes: int) -> None:
        self.name = name
        self.share = max(1.0, quota / processes)
        self.window = window
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, client: str) -> dict[str, str]:
        """Take one request from a client's bucket and return the headers that say so. Raises TooManyRequests."""
        now = time.monotonic()
        bucket = self._buckets.pop(client, None) or Bucket(self.share, now)
        bucket.left = min(self.share, bucket.left + (now - bucket.at) * self.share / self.window)
        bucket.at = now
        self._buckets[client] = bucket
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        headers = {"RateLimit-Policy": f'"{self.name}";q={math.floor(self.share)};w={self.window}'}
        if bucket.left < 1:
            wait = math.ceil((1 - bucket.left) * self.window / self.share)
            refusal = TooManyRequests(f"Try again in {wait} s.")
            refusal.repeated, bucket.refused = bucket.refused, True
            refusal.headers = headers | {"RateLimit": f'"{self.name}";r=0;t={wait}', "Retry-After": str(wait)}  # type: ignore[attr-defined]
            raise refusal
        bucket.left -= 1
        bucket.refused = False
        return headers | {"RateLimit": f'"{self.name}";r={math.floor(bucket.left)};t={self.window}'}
