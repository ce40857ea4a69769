"""Means and covariances of sets of units, gathered batch by batch in float64.

CCA, SVCCA, PWCCA, linear CKA and Procrustes need nothing else, so activations never have to be stored.
"""

from collections.abc import Hashable, Iterable, Mapping

import torch
from torch import Tensor

from analysis.numerics.side import IncomparableError, Side

__all__ = ["IncomparableError", "JointMoments", "Moments"]

ROWS_AT_ONCE = 4096
"""Longer batches are taken in parts, so that memory does not grow with them."""

BLOCK_UNITS = 512
"""Scatter matrices are symmetric: of blocks this wide, those below the diagonal are not computed."""


class JointMoments:
    """Running moments of several sets of units, each seen once however many pairs it takes part in.

    Batches are centred on their own mean before they are multiplied and then merged (Chan, Golub &
    LeVeque 1983), so an offset that is large against the spread costs no precision. Memory is that of
    the scatter matrices and of ROWS_AT_ONCE centred rows.

    Example:
        >>> gathered = JointMoments([("a", "b"), ("a", "c")])
        >>> gathered.update({"a": torch.rand(8, 2), "b": torch.rand(8, 3), "c": torch.rand(8, 1)})
        >>> gathered.of("a", "c").cxy.shape
        torch.Size([2, 1])
    """

    def __init__(self, pairs: Iterable[tuple[Hashable, Hashable]]) -> None:
        self.pairs = tuple(dict.fromkeys(pairs))
        self.keys = tuple(dict.fromkeys(key for pair in self.pairs for key in pair))
        self.n = 0
        self._means: dict[Hashable, Tensor] = {}
        self._scatters: dict[Hashable, Tensor] = {}  # only the blocks on and above the diagonal count
        self._crosses: dict[tuple[Hashable, Hashable], Tensor] = {}
        self._sides: dict[Hashable, Side] = {}

    def update(self, rows: Mapping[Hashable, Tensor]) -> None:
        """Add a batch; row i of every set belongs to the same observation.

        Args:
            rows: by key: `(n, units)`, any floating type; all keys at once, all with the same n. An empty
                batch changes nothing.

        Raises:
            IncomparableError: a value is NaN or infinite; nothing should be read from here afterwards.
            ValueError: keys or shapes do not fit together or earlier batches.
        """
        self._check(rows)
        n_rows = rows[self.keys[0]].shape[0]
        for start in range(0, n_rows, ROWS_AT_ONCE):
            self._add({key: rows[key][start : start + ROWS_AT_ONCE] for key in self.keys})

    def of(self, key_x: Hashable, key_y: Hashable) -> "Moments":
        """Return the moments of a pair, in either order; they follow later updates.

        Raises:
            ValueError: the pair was not asked for at the start.
        """
        if not {(key_x, key_y), (key_y, key_x)} & set(self.pairs):
            raise ValueError(f"moments of {(key_x, key_y)!r} are not gathered, only of {list(self.pairs)}")
        return Moments(self, key_x, key_y)

    def mean(self, key: Hashable) -> Tensor:
        """Return the mean of a set, `(units,)`."""
        if key not in self._means:
            raise ValueError("moments hold no samples yet")
        return self._means[key]

    def side(self, key: Hashable) -> Side:
        """Return a set as it is now; what is derived from it is shared by all its pairs."""
        if key not in self._sides:
            self._need_two_samples()
            scatter = self._scatters[key]
            covariance = scatter.triu().add_(scatter.triu(1).T).div_(self.n - 1)
            _check_finite(covariance)
            self._sides[key] = Side(self.n, self._means[key], covariance)
        return self._sides[key]

    def cross_covariance(self, key_x: Hashable, key_y: Hashable) -> Tensor:
        """Return `(units of x, units of y)`, divided by n - 1."""
        if key_x == key_y:
            return self.side(key_x).covariance
        self._need_two_samples()
        if (key_x, key_y) not in self._crosses:
            return self._crosses[key_y, key_x].T / (self.n - 1)
        return self._crosses[key_x, key_y] / (self.n - 1)

    def _need_two_samples(self) -> None:
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got n_samples={self.n}")

    def _check(self, rows: Mapping[Hashable, Tensor]) -> None:
        if set(rows) != set(self.keys):
            raise ValueError(f"moments need rows of {list(self.keys)} together, got {list(rows)}")
        shapes = [tuple(rows[key].shape) for key in self.keys]
        if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
            raise ValueError(
                "moments need two-dimensional (n_samples, n_units) batches with equal n_samples, "
                f"got {' and '.join(map(str, shapes))}"
            )
        units = tuple(shape[1] for shape in shapes)
        expected = tuple(self._means[key].numel() for key in self._means)
        if expected and units != expected:
            raise ValueError(f"expected batches of {expected} units, got {units}")

    def _add(self, rows: dict[Hashable, Tensor]) -> None:
        centred, means = {}, {}
        for key, values in rows.items():
            values = values.to(torch.float64, copy=True)
            means[key] = values.mean(dim=0)
            _check_finite(means[key])
            centred[key] = values.sub_(means[key])
        if not self._means:
            self._start(means)
        n_batch = rows[self.keys[0]].shape[0]
        weight = self.n * n_batch / (self.n + n_batch)
        shifts = {key: means[key] - self._means[key] for key in self.keys}
        for key, scatter in self._scatters.items():
            _add_gram(scatter, centred[key])
            scatter.addr_(shifts[key], shifts[key], alpha=weight)
        for (x, y), scatter in self._crosses.items():
            scatter.addmm_(centred[x].T, centred[y]).addr_(shifts[x], shifts[y], alpha=weight)
        self.n += n_batch
        for key, shift in shifts.items():
            self._means[key] = self._means[key] + shift * (n_batch / self.n)
        self._sides.clear()

    def _start(self, means: dict[Hashable, Tensor]) -> None:
        self._means = {key: torch.zeros_like(mean) for key, mean in means.items()}
        self._scatters = {key: mean.new_zeros(len(mean), len(mean)) for key, mean in means.items()}
        for x, y in self.pairs:
            if x != y and (y, x) not in self._crosses:
                self._crosses[x, y] = means[x].new_zeros(len(means[x]), len(means[y]))


class Moments:
    """First and second moments of paired observations: of two sets of a JointMoments, or of its own."""

    def __init__(
        self, joint: JointMoments | None = None, key_x: Hashable = "x", key_y: Hashable = "y"
    ) -> None:
        self._joint = joint or JointMoments([(key_x, key_y)])
        self._key_x, self._key_y = key_x, key_y

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch; row i of `x` and row i of `y` belong together.

        Args:
            x: `(n, units of x)`, any floating type; an empty batch changes nothing.
            y: `(n, units of y)`.

        Raises:
            IncomparableError: a value is NaN or infinite.
            ValueError: the shapes do not fit together or earlier batches, or other sets of units are
                gathered along with these.
        """
        self._joint.update({self._key_x: x, self._key_y: y})

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._joint.n

    @property
    def x(self) -> Side:
        """The first set."""
        return self._joint.side(self._key_x)

    @property
    def y(self) -> Side:
        """The second set."""
        return self._joint.side(self._key_y)

    @property
    def mean_x(self) -> Tensor:
        """Mean of x, `(units of x,)`."""
        return self._joint.mean(self._key_x)

    @property
    def mean_y(self) -> Tensor:
        """Mean of y, `(units of y,)`."""
        return self._joint.mean(self._key_y)

    @property
    def cxx(self) -> Tensor:
        """Covariance of x, `(units of x, units of x)`, divided by n - 1."""
        return self.x.covariance

    @property
    def cyy(self) -> Tensor:
        """Covariance of y, `(units of y, units of y)`."""
        return self.y.covariance

    @property
    def cxy(self) -> Tensor:
        """Cross-covariance, `(units of x, units of y)`."""
        return self._joint.cross_covariance(self._key_x, self._key_y)

    @property
    def spectrum_x(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of `cxx`, ascending, and its eigenvectors as columns."""
        return self.x.spectrum

    @property
    def spectrum_y(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of `cyy`, ascending, and its eigenvectors as columns."""
        return self.y.spectrum


def _add_gram(scatter: Tensor, centred: Tensor) -> None:
    for start in range(0, centred.shape[1], BLOCK_UNITS):
        block = slice(start, start + BLOCK_UNITS)
        scatter[block, start:].addmm_(centred[:, block].T, centred[:, start:])


def _check_finite(numbers: Tensor) -> None:
    if not numbers.isfinite().all():
        raise IncomparableError("activations must be finite, got NaN or infinity; the network has diverged")
