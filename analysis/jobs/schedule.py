"""Which jobs are done, and where: what the cache holds is not done again."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from analysis.jobs.cache import OutcomeCache
from analysis.jobs.job import Job, Outcome

Progress = Callable[[str, int, int], None]
Performer = Callable[[Sequence[Job]], Iterable[tuple[int, Outcome]]]
"""Does jobs in any order, and gives the place of each in the list with its outcome."""

NOT_COMPUTED = "not computed"


def outcomes(
    jobs: Sequence[Job],
    *,
    perform: Performer | None,
    cache: OutcomeCache | None,
    progress: Progress | None = None,
    what: str = "comparing networks",
) -> list[Outcome]:
    """Return the outcome of every job, in their order; equal jobs are done once.

    Args:
        perform: does what the cache lacks; None leaves it (`Outcome.reason` is NOT_COMPUTED).
        cache: None keeps nothing.
        progress: called with (what, jobs done, jobs in all), what was cached counted as done.
    """
    found: dict[str, Outcome] = {}
    waiting: dict[str, Job] = {}
    keys = [job.key for job in jobs]
    for key, job in zip(keys, jobs, strict=True):
        if key not in found and key not in waiting:
            cached = cache.get(key) if cache is not None else None
            if cached is not None:
                found[key] = cached
            else:
                waiting[key] = job
    report, n_all = progress or _silent, len(found) + len(waiting)
    if jobs:
        report(what, len(found), n_all)
    for key, outcome in _performed(waiting, perform):
        found[key] = outcome
        if cache is not None and not outcome.reason:
            cache.put(key, outcome)
        report(what, len(found), n_all)
    return [found.get(key, Outcome(reason=NOT_COMPUTED)) for key in keys]


def _performed(waiting: dict[str, Job], perform: Performer | None) -> Iterator[tuple[str, Outcome]]:
    if perform is None or not waiting:
        return
    keys = list(waiting)
    for place, outcome in perform(list(waiting.values())):
        yield keys[place], outcome


def one_after_another(do: Callable[[Job], Outcome]) -> Performer:
    """Return a performer that does jobs in this process."""

    def perform(jobs: Sequence[Job]) -> Iterable[tuple[int, Outcome]]:
        return ((place, do(job)) for place, job in enumerate(jobs))

    return perform


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
