# Reference values for tests/analysis/test_surfaces.py: Rscript tests/r/more.R > tests/r/more.csv   (R 4.2, car, emmeans, limma)
# Sphericity of two factors within blocks, contrasts of ordered levels, variances of pairs between pooled and own, and
# response surfaces. Data: oats (MASS), ToothGrowth, and the chemical process of Myers, Montgomery & Anderson-Cook,
# Response Surface Methodology (2009), table 7.6, which Lenth, J. Stat. Softw. 32 (2009) 7, analyses with rsm.
suppressMessages({library(car); library(emmeans)})
rows <- NULL
put <- function(case, row, column, value) rows <<- rbind(rows, data.frame(case, row = as.character(row), column, value = as.numeric(value)))

oats <- read.csv("tests/r/data_oats.csv")
wide <- with(oats, tapply(yield, list(block, paste(variety, nitro, sep = ".")), mean))
id <- data.frame(do.call(rbind, strsplit(colnames(wide), ".", fixed = TRUE)), stringsAsFactors = TRUE); names(id) <- c("variety", "nitro")
contrasts(id$variety) <- contr.sum(3); contrasts(id$nitro) <- contr.sum(4)
s <- summary(Anova(lm(wide ~ 1), idata = id, idesign = ~ variety * nitro, type = 3), multivariate = FALSE)
for (term in c("variety", "nitro", "variety:nitro")) {
  put("sphericity", term, "F", s$univariate.tests[term, "F value"]); put("sphericity", term, "df_residual", s$univariate.tests[term, "den Df"])
  if (term == "variety:nitro") next                                   # six blocks for six degrees of freedom: car gives none
  a <- s$pval.adjustments[term, ]; put("sphericity", term, "gg", a["GG eps"]); put("sphericity", term, "hf", min(1, a["HF eps"]))
  put("sphericity", term, "p_gg", a["Pr(>F[GG])"])
  put("sphericity", term, "p_hf", if (a["HF eps"] > 1) s$univariate.tests[term, "Pr(>F)"] else a["Pr(>F[HF])"]) }

oats$nitro <- factor(oats$nitro)
em <- emmeans(lm(yield ~ block + variety + nitro, oats), "nitro")
ordered <- list(steps = contrast(em, "consec"),
  cuts = contrast(em, list(a = c(-1, 1/3, 1/3, 1/3), b = c(-1/2, -1/2, 1/2, 1/2), c = c(-1/3, -1/3, -1/3, 1))),
  helmert = contrast(em, list(a = c(-1, 1, 0, 0), b = c(-1/2, -1/2, 1, 0), c = c(-1/3, -1/3, -1/3, 1))))
for (kind in names(ordered)) { d <- as.data.frame(summary(ordered[[kind]], adjust = "none"))
  for (i in 1:3) for (k in c("estimate", "SE", "p.value")) put(kind, i, c(estimate = "estimate", SE = "se", p.value = "p")[k], d[i, k])
  put(kind, 1, "bonferroni", min(1, 3 * d$p.value[1])) }

w <- tapply(oats$yield, list(oats$block, oats$nitro), mean)          # blocks x levels
pooled <- summary(lm(yield ~ block + nitro, aggregate(yield ~ block + nitro, oats, mean)))$sigma^2
for (i in 1:3) for (j in (i + 1):4) { d <- w[, i] - w[, j]
  v <- limma:::.squeezeVar(var(d) / 2, df = 5, var.prior = pooled, df.prior = 4)
  t <- mean(d) / sqrt(2 * v / 6); name <- paste(colnames(w)[i], colnames(w)[j], sep = " - ")
  put("moderated", name, "t", t); put("moderated", name, "p", ptukey(sqrt(2) * abs(t), 4, 9, lower.tail = FALSE)) }

chem <- data.frame(time = c(80, 80, 90, 90, rep(85, 6), 92.07, 77.93, 85, 85), temp = c(170, 180, 170, 180, rep(175, 8), 182.07, 167.93),
  block = rep(c("B1", "B2"), each = 7), yield = c(80.5, 81.5, 82, 83.5, 83.9, 84.3, 84, 79.7, 79.8, 79.5, 78.4, 75.6, 78.5, 77))
write.csv(chem, "tests/r/data_chem.csv", row.names = FALSE, quote = FALSE)
fit <- function(d, block) { m <- lm(reformulate(c(block, "x1", "x2", "I(x1^2)", "I(x2^2)", "x1:x2"), "y"), d); list(m = m, c = coef(summary(m))) }
surface <- function(case, d, block) { f <- fit(d, block)
  for (k in c("x1", "x2", "I(x1^2)", "I(x2^2)", "x1:x2")) { put(case, k, "estimate", f$c[k, 1]); put(case, k, "se", f$c[k, 2]); put(case, k, "p", f$c[k, 4]) }
  b <- f$c[c("x1", "x2"), 1]; B <- matrix(c(f$c["I(x1^2)", 1], f$c["x1:x2", 1] / 2, f$c["x1:x2", 1] / 2, f$c["I(x2^2)", 1]), 2)
  x <- -solve(B, b) / 2; e <- eigen(B)$values
  put(case, "stationary", "x1", x[1]); put(case, "stationary", "x2", x[2]); put(case, "curvature", "low", min(e)); put(case, "curvature", "high", max(e))
  full <- lm(reformulate(c(block, "factor(x1):factor(x2)"), "y"), d); a <- anova(f$m, full)
  put(case, "lack", "F", a$F[2]); put(case, "lack", "df", a$Df[2]); put(case, "lack", "p", a$`Pr(>F)`[2]); put(case, "r2", "r2", summary(f$m)$r.squared) }
half <- function(v) (v - (min(v) + max(v)) / 2) / ((max(v) - min(v)) / 2)
surface("chem", data.frame(y = chem$yield, x1 = half(chem$time), x2 = half(chem$temp), block = chem$block), "block")
# A full 4 x 4 grid over the logarithms, four blocks.
set.seed(5)
g <- expand.grid(width = c(4, 8, 16, 32), rate = c(0.001, 0.003, 0.01, 0.03), seed = 1:4)
g$y <- round(0.7 - 0.02 * (log2(g$width) - 3.4)^2 - 0.03 * (log(g$rate) + 4.8)^2 + 0.01 * log2(g$width) * log(g$rate) + 0.02 * g$seed + rnorm(nrow(g), sd = 0.02), 4)
write.csv(g, "tests/r/data_grid.csv", row.names = FALSE, quote = FALSE)
surface("grid", data.frame(y = g$y, x1 = half(log(g$width)), x2 = half(log(g$rate)), block = factor(g$seed)), "block")
rows$value <- format(rows$value, digits = 17, trim = TRUE)
write.csv(rows, row.names = FALSE, quote = FALSE)
