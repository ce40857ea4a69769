"""Durations in words."""


def duration(seconds: float) -> str:
    """Word a duration: `48 s`, `12 min`, `3 h 20 min`, `12 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 100 * 60 else f"{minutes / 1440:.0f} days"
