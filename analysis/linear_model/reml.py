"""Restricted maximum likelihood of variance components, and denominator degrees of freedom.

Works on the reduced problem of `analysis.linear_model.solve`: rows of the response that the fixed and random columns
reach, and the sum of squares of the `spare` directions outside them, which hold the residual variance alone.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


class Reml:
    """Fit of z = x b + sum_k Z_k u_k + e with x (rows, p) orthonormal; variances (groups..., residual)."""

    def __init__(
        self, x: np.ndarray, Z: list[np.ndarray], z: np.ndarray, extra: float, spare: int, zero: float
    ) -> None:
        self.x, self.z, self.spare = x, z, spare
        rest = z - x @ (x.T @ z)
        free = len(z) - x.shape[1] + spare
        self.scale = (float(rest @ rest) + extra) / free if free > 0 else 0.0
        self.ok = self.scale * free > zero and free > 0
        self.extra = extra / self.scale if self.ok else 0.0
        self.kernels = [k @ k.T for k in Z] + [np.eye(len(z))]
        # A group's columns may lie in the fixed effects: then its variance cannot be told.
        outside = [float(np.linalg.norm(k - x @ (x.T @ k))) > 1e-7 * max(float(np.linalg.norm(k)), 1e-300) for k in Z]
        self.active = [*outside, True]
        self.known = list(outside)
        v = self._fit() if self.ok else np.full(len(self.kernels), 0.0)
        self.variances = v * self.scale
        if self.ok:
            self._finish(v)

    def notes(self, names: list[str]) -> list[str]:
        """Sentences about variances that are zero or cannot be told."""
        notes = [] if self.ok else ["There is no residual variation, so nothing can be tested."]
        for name, value, known in zip(names, self.variances, self.known, strict=False):
            if not known:
                notes.append(f"The variance of {name} cannot be told apart from the fixed terms; it is left out.")
            elif self.ok and value == 0:
                notes.append(f"The variance of {name} is estimated as 0: it adds no more scatter than the residual.")
        return notes

    def satterthwaite(self, L: np.ndarray) -> tuple[float, float]:
        """F and denominator degrees of freedom of L b = 0, one t test for each eigenvector of its covariance."""
        value, vector = np.linalg.eigh(L @ self.cov @ L.T)
        t = vector.T @ L
        gradient = np.array([np.sum((t @ g) * t, axis=1) for g in self.gradients])  # (variances, tests)
        nu = 2 * value**2 / np.einsum("it,ij,jt->t", gradient, self.cov_observed, gradient)
        F = float(np.mean((t @ self.b) ** 2 / value))
        if np.all(np.abs(np.diff(nu)) < 1e-8 * nu.max()):
            return F, float(nu.mean())
        if not np.all(nu > 2):
            return F, 2.0
        E = float(np.sum(nu / (nu - 2)))
        return F, 2 * E / (E - len(nu))

    def kenward_roger(self, L: np.ndarray) -> tuple[float, float]:
        """Scaled F and denominator degrees of freedom of L b = 0."""
        q, cov, W = len(L), self.cov, self.cov_expected
        theta = L.T @ np.linalg.solve(L @ cov @ L.T, L)
        parts = [theta @ cov @ P @ cov for P in self.P]
        trace = np.array([np.trace(m) for m in parts])
        cross = np.array([[np.sum(a * b.T) for b in parts] for a in parts])
        a1, a2 = float(trace @ W @ trace), float(np.sum(W * cross))
        adjusted = np.linalg.solve(L @ self.cov_adjusted @ L.T, L @ self.b)
        F = float((L @ self.b) @ adjusted) / q
        if a2 <= 0:
            return F, float("inf")
        B = (a1 + 6 * a2) / (2 * q)
        g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
        below = 3 * q + 2 * (1 - g)
        v0, v1, v2 = 1 + g / below * B, 1 - (q - g) / below * B, 1 - (q + 2 - g) / below * B
        v0 = 0.0 if abs(v0) < 1e-10 else v0
        ratio = 1.0 if abs(v1) < 1e-14 and abs(1 - a2 / q) < 1e-14 else (1 - a2 / q) / v1
        rho = ratio**2 * v0 / (q * v2)
        df = 4 + (q + 2) / (q * rho - 1)
        scaling = 1.0 if abs(df - 2) < 1e-2 else df * (1 - a2 / q) / (df - 2)
        return F * scaling, float(df)

    def _parts(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Inverse of V, P = V^-1 - V^-1 x cov x' V^-1, cov of b, and -2 log restricted likelihood (scaled z)."""
        V = sum(s * k for s, k in zip(v, self.kernels, strict=True))
        chol = np.linalg.cholesky(V)
        inverse = np.linalg.inv(V)
        A = self.x.T @ inverse @ self.x
        cov = np.linalg.inv(A)
        P = inverse - inverse @ self.x @ cov @ self.x.T @ inverse
        z = self.z / np.sqrt(self.scale)
        criterion = (
            2 * float(np.sum(np.log(np.diag(chol)))) + np.linalg.slogdet(A)[1] + float(z @ P @ z)
            + self.spare * np.log(v[-1]) + self.extra / v[-1]
        )  # fmt: skip
        return inverse, P, cov, criterion

    def _score(self, v: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Criterion, its gradient, and expected and observed second derivatives, all of -2 log likelihood."""
        _, P, _, criterion = self._parts(v)
        z = self.z / np.sqrt(self.scale)
        Pz = P @ z
        PV = [P @ k for k in self.kernels]
        gradient = np.array([np.trace(m) - Pz @ k @ Pz for m, k in zip(PV, self.kernels, strict=True)])
        expected = np.array([[np.sum(a * b.T) for b in PV] for a in PV])
        cross = np.array([[Pz @ k @ P @ j @ Pz for j in self.kernels] for k in self.kernels])
        observed = 2 * cross - expected
        gradient[-1] += self.spare / v[-1] - self.extra / v[-1] ** 2
        expected[-1, -1] += self.spare / v[-1] ** 2
        observed[-1, -1] += 2 * self.extra / v[-1] ** 3 - self.spare / v[-1] ** 2
        return criterion, gradient, expected, observed

    def _fit(self) -> np.ndarray:
        low = np.array([0.0] * (len(self.kernels) - 1) + [1e-10])
        bounds = [(a, None if active else 0.0) for a, active in zip(low, self.active, strict=True)]
        # The scaled total variance is about 1, and so are the variances' kernels after division by their mean diagonal.
        size = np.array([max(float(np.trace(k)) / len(k), 1e-12) for k in self.kernels])
        best, best_criterion = None, np.inf
        for share in (0.5, 0.05):
            start = np.where(self.active, share / size, 0.0)
            start[-1] = 1 - share
            result = minimize(
                lambda v: self._score(v)[:2], start, jac=True, bounds=bounds, method="L-BFGS-B",
                options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500},
            )  # fmt: skip
            if result.fun < best_criterion - 1e-9:
                best, best_criterion = result.x, float(result.fun)
        assert best is not None
        return self._polish(best)

    def _polish(self, v: np.ndarray) -> np.ndarray:
        """Newton steps on the variances that are not zero, to the last digits."""
        for _ in range(30):
            criterion, gradient, expected, observed = self._score(v)
            v = np.where((v < 1e-9) & (gradient > 0), 0.0, v)
            free = v > 0
            hessian = observed[np.ix_(free, free)]
            if np.linalg.eigvalsh(hessian).min() <= 0:
                hessian = expected[np.ix_(free, free)]
            step = np.zeros_like(v)
            step[free] = np.linalg.lstsq(hessian, gradient[free], rcond=None)[0]
            new = v - step
            while np.any(new[free] <= 0):
                step /= 2
                new = v - step
            if self._parts(new)[3] > criterion + 1e-9:
                break
            v = new
            if np.max(np.abs(step)) < 1e-13:
                break
        return v

    def _finish(self, v: np.ndarray) -> None:
        inverse, _, cov, _ = self._parts(v)
        _, _, _, observed = self._score(v)
        s = self.scale
        inside = [self.x.T @ inverse @ k @ inverse for k in self.kernels]
        self.P = [-m @ self.x for m in inside]
        Q = [[m @ k @ inverse @ self.x for k in self.kernels] for m in inside]
        self.b = cov @ self.x.T @ inverse @ self.z
        # Derivatives of cov in the scaled variances; a variance of zero is held there.
        self.gradients = [-cov @ P @ cov * s for P in self.P]
        free = v > 0
        self.cov_observed = np.zeros_like(observed)
        self.cov_observed[np.ix_(free, free)] = 2 * np.linalg.pinv(observed[np.ix_(free, free)])
        spread = [inverse @ k for k in self.kernels]
        info = np.array([[np.sum(a * b.T) for b in spread] for a in spread])
        info[-1, -1] += self.spare / v[-1] ** 2
        for i in range(len(v)):
            for j in range(len(v)):
                info[i, j] += -2 * np.trace(cov @ Q[i][j]) + np.trace(cov @ self.P[i] @ cov @ self.P[j])
        keep = np.array(self.active)
        self.cov_expected = np.zeros_like(info)
        self.cov_expected[np.ix_(keep, keep)] = 2 * np.linalg.pinv(info[np.ix_(keep, keep)])
        bias = sum(
            self.cov_expected[i, j] * (Q[i][j] - self.P[i] @ cov @ self.P[j])
            for i in range(len(v))
            for j in range(len(v))
        )
        self.cov_adjusted = (cov + 2 * cov @ bias @ cov) * s
        self.cov = cov * s
        # theta cov P cov is then free of the unit: theta goes with 1 / s.
        self.P = [P / s for P in self.P]
