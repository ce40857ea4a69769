"""The clock of MLflow's server."""

import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit

TIMEOUT_S = 10.0
# The server tells whole seconds.
HALF_A_SECOND = 0.5


def server_skew_s(tracking_uri: str) -> float | None:
    """Return how far this machine's clock is ahead of the server's, to a second; None if none tells."""
    if not tracking_uri.startswith("http"):
        return None
    parts = urlsplit(tracking_uri)
    # Without the credentials: every answer is dated, a refusal too.
    place = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/health", "", ""))
    question = urllib.request.Request(address, method="HEAD")
    before = time.time()
    try:
        with urllib.request.urlopen(question, timeout=TIMEOUT_S) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    except OSError:
        return None  # whether the server can be reached is asked elsewhere
    after = time.time()
    try:
        told_s = parsedate_to_datetime(str(date)).timestamp() + HALF_A_SECOND
    except ValueError:
        return None
    return (before + after) / 2 - told_s
