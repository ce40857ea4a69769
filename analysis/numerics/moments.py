"""Means and covariances of two sets of units, gathered batch by batch in float64.

CCA, SVCCA and linear CKA need nothing else, so activations never have to be stored.
"""

import torch
from torch import Tensor


class IncomparableError(ValueError):
    """A comparison is not defined on these activations."""


class Moments:
    """Running first and second moments of paired observations.

    Batches are centred on their own mean before they are multiplied and then merged (Chan, Golub &
    LeVeque 1983), so an offset that is large against the spread costs no precision.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: tuple[Tensor, Tensor] | None = None
        self._scatter: tuple[Tensor, Tensor, Tensor] | None = None
        self._spectra: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch; row i of `x` and row i of `y` belong together.

        Args:
            x: `(n, units of x)`, any floating type; an empty batch changes nothing.
            y: `(n, units of y)`.

        Raises:
            IncomparableError: a value is NaN or infinite.
            ValueError: the shapes do not fit together or earlier batches.
        """
        self._check(x, y)
        n_batch = x.shape[0]
        if n_batch == 0:
            return
        x, y = x.double(), y.double()
        mean = (x.mean(dim=0), y.mean(dim=0))
        centred_x, centred_y = x - mean[0], y - mean[1]
        scatter = (centred_x.T @ centred_x, centred_y.T @ centred_y, centred_x.T @ centred_y)
        if not all(torch.isfinite(part.sum()) for part in (*mean, *scatter)):
            raise IncomparableError(
                "activations must be finite, got NaN or infinity; the network has diverged"
            )
        self._merge(n_batch, mean, scatter)
        self._spectra.clear()

    def _check(self, x: Tensor, y: Tensor) -> None:
        if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
            raise ValueError(
                "moments need two (n_samples, n_units) batches with equal n_samples, "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if self._mean is not None:
            expected = (self._mean[0].numel(), self._mean[1].numel())
            if (x.shape[1], y.shape[1]) != expected:
                raise ValueError(f"expected batches of {expected} units, got {(x.shape[1], y.shape[1])}")

    def _merge(
        self, n_batch: int, mean: tuple[Tensor, Tensor], scatter: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        if self._mean is None or self._scatter is None:
            self.n, self._mean, self._scatter = n_batch, mean, scatter
            return
        n = self.n + n_batch
        shift_x, shift_y = mean[0] - self._mean[0], mean[1] - self._mean[1]
        weight = self.n * n_batch / n
        shifts = ((shift_x, shift_x), (shift_y, shift_y), (shift_x, shift_y))
        for total, part, (left, right) in zip(self._scatter, scatter, shifts, strict=True):
            total.add_(part).addr_(left, right, alpha=weight)
        self._mean = (
            self._mean[0] + shift_x * (n_batch / n),
            self._mean[1] + shift_y * (n_batch / n),
        )
        self.n = n

    @property
    def mean_x(self) -> Tensor:
        """Mean of x, `(units of x,)`."""
        return self._means()[0]

    @property
    def mean_y(self) -> Tensor:
        """Mean of y, `(units of y,)`."""
        return self._means()[1]

    @property
    def cxx(self) -> Tensor:
        """Covariance of x, `(units of x, units of x)`, divided by n - 1."""
        return self._covariance(0)

    @property
    def cyy(self) -> Tensor:
        """Covariance of y, `(units of y, units of y)`."""
        return self._covariance(1)

    @property
    def cxy(self) -> Tensor:
        """Cross-covariance, `(units of x, units of y)`."""
        return self._covariance(2)

    @property
    def spectrum_x(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of `cxx`, ascending, and its eigenvectors as columns."""
        return self._spectrum(0)

    @property
    def spectrum_y(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of `cyy`, ascending, and its eigenvectors as columns."""
        return self._spectrum(1)

    def _spectrum(self, index: int) -> tuple[Tensor, Tensor]:
        # Every measure needs both, and for wide stages they are most of its work.
        if index not in self._spectra:
            variances, vectors = torch.linalg.eigh(self._covariance(index))
            self._spectra[index] = (variances, vectors)
        return self._spectra[index]

    def _means(self) -> tuple[Tensor, Tensor]:
        if self._mean is None:
            raise ValueError("moments hold no samples yet")
        return self._mean

    def _covariance(self, index: int) -> Tensor:
        if self._scatter is None or self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got n_samples={self.n}")
        return self._scatter[index] / (self.n - 1)
