"""The linear model beneath the tests: design matrices, rank-aware least squares, REML, quadrature."""
