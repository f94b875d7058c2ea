# One-sided quantiles of Dunnett's test with correlation 1/2, by nested adaptive integration in base R:
# Rscript tests/r/dunnett.R. The values are in tests/analysis/test_race.py.
below <- function(t, k, df) {
  inner <- function(x) integrate(function(z) dnorm(z) * pnorm(sqrt(2) * x + z)^k, -Inf, Inf, rel.tol = 1e-11)$value
  density <- function(s) exp(dchisq(df * s^2, df, log = TRUE)) * 2 * df * s
  integrate(function(s) sapply(s, function(u) inner(t * u)) * density(s), 0, 5, rel.tol = 1e-10, subdivisions = 500)$value
}
quantile_of <- function(k, df, a) uniroot(function(t) below(t, k, df) - (1 - a), c(1, 12), tol = 1e-10)$root
for (k in c(1, 2, 19)) for (df in c(9, 10, 15, 55)) cat(sprintf("%d,%d,0.005,%.8f\n", k, df, quantile_of(k, df, 0.005)))
