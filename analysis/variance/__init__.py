"""Analysis of variance: tables, effect sizes, error strata, mixed models, trends, robust tests, assumptions."""
