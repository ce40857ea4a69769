"""Entries that other packages add to our tables, through the entry points they declare.

[project.entry-points."transfusion.architectures"]
my_net = "my_package.networks:MY_NET"
"""

from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from trainables.errors import SpecError

_Entry = TypeVar("_Entry")


@cache
def plugins(group: str, kind: type[_Entry], *, taken: frozenset[str]) -> dict[str, _Entry]:
    """Return what installed packages declare under `group`, by name; each is imported once.

    Args:
        taken: names of our own, which would mean two things.

    Raises:
        SpecError: an entry cannot be imported, is no `kind`, or has a name that is taken.
    """
    found: dict[str, _Entry] = {}
    for point in entry_points(group=group):
        where = f"{group}: {point.name} ({point.value})"
        if point.name in taken:
            raise SpecError(f"{where} has the name of an entry of this package; give it another")
        try:
            entry = point.load()
        except Exception as error:  # whatever the import of a foreign package raises
            raise SpecError(
                f"{where} cannot be imported ({type(error).__name__}: {error}); mend or remove that package"
            ) from error
        if not isinstance(entry, kind):
            raise SpecError(
                f"{where} must be of type {kind.__name__}, got {type(entry).__name__}; mend that package"
            )
        if point.name in found:
            raise SpecError(f"{where} is declared by two packages; remove one")
        found[point.name] = entry
    return found
