# Reference values for tests/analysis/test_analysis*.py, computed in R from public data sets and two simulated studies.
# Run from the repository root:  Rscript tests/r/reference.R     (the tests need the CSV files only, not R)
# Every value is one line of reference.csv: case, row, column, value. Versions are in versions.txt.
suppressMessages({library(car); library(lme4); library(lmerTest); library(pbkrtest); library(emmeans); library(multcomp)
  library(effectsize); library(sandwich); library(multcompView); library(pwr)})
dir <- "tests/r"
out <- list()
put <- function(case, row, column, value) {
  if (length(value) == 0) value <- NA
  out[[length(out) + 1]] <<- data.frame(case, row = as.character(row), column, value = as.numeric(value))
}
save_data <- function(d, name) write.csv(d, file.path(dir, paste0("data_", name, ".csv")), row.names = FALSE, quote = FALSE)
put_anova <- function(case, tab) {   # base and car tables
  tab <- as.data.frame(tab)
  names(tab) <- sub("Sum Sq", "sum_sq", sub("Mean Sq", "mean_sq", sub("Pr\\(>F\\)", "p", sub("^F value$", "F", names(tab)))))
  names(tab)[names(tab) == "Df"] <- "df"
  for (r in rownames(tab)) for (k in intersect(c("sum_sq", "df", "F", "p"), names(tab)))
    if (trimws(r) != "(Intercept)") put(case, sub("Residuals", "residual", trimws(r)), k, tab[r, k])
}

# --- data -----------------------------------------------------------------------------------------------------------
warp <- warpbreaks[-c(1, 2, 13, 30, 31, 50), ]                      # made unbalanced by leaving out six rows
tooth <- ToothGrowth
heat <- read.csv("analysis/data/xiang2023_dreambooth_heatmap.csv", stringsAsFactors = TRUE)
set.seed(20260711)
study <- merge(heat, data.frame(seed = factor(0:2)))               # the placements with three simulated seeds
study$clip_i <- round(study$clip_similarity + c(-.02, 0, .015)[study$seed] + rnorm(nrow(study), sd = .015), 5)
study$clip_similarity <- NULL
study <- study[-c(7, 23), ]                                        # and two runs missing
study$placement <- factor(paste(study$din, study$dout, sep = "-"))
study$scale <- 2 ^ (as.integer(study$seed) - 1 + (seq_len(nrow(study)) %% 2))
oats <- as.data.frame(MASS::oats); names(oats) <- c("block", "variety", "nitro", "yield")
levels(oats$variety) <- c("Golden", "Marvellous", "Victory"); levels(oats$nitro) <- c("n0", "n2", "n4", "n6")
oats2 <- oats[-c(3, 17, 18, 40, 66), ]
for (n in c("npk", "PlantGrowth", "InsectSprays", "sleepstudy", "Penicillin")) save_data(get(n), n)
save_data(warp, "warp"); save_data(tooth, "tooth"); save_data(study, "study"); save_data(oats, "oats"); save_data(oats2, "oats2")

# --- analysis of variance --------------------------------------------------------------------------------------------
contr <- list(wool = contr.sum, tension = contr.sum)
put_anova("warp_1", anova(lm(breaks ~ wool * tension, warp)))
put_anova("warp_2", Anova(lm(breaks ~ wool * tension, warp), type = 2))
put_anova("warp_3", Anova(lm(breaks ~ wool * tension, warp, contrasts = contr), type = 3))
put_anova("npk_1", anova(lm(yield ~ block + N * P * K, npk)))       # N:P:K is aliased with blocks
tooth$fdose <- factor(tooth$dose)
put_anova("tooth_levels", Anova(lm(len ~ supp * fdose, tooth), type = 2))
put_anova("tooth_trend", Anova(lm(len ~ supp * dose, tooth), type = 2))
put_anova("tooth_trend_3", Anova(lm(len ~ supp * dose, tooth, contrasts = list(supp = contr.sum)), type = 3))
put_anova("tooth_poly", Anova(lm(len ~ supp + poly(dose, 2), tooth), type = 2))
nested <- function(case, d, y) {                                    # type II of a disconnected design, by comparing lm fits
  full <- lm(reformulate(c("din", "dout"), y), d)
  for (t in c("din", "dout")) {
    a <- anova(update(full, as.formula(paste(". ~ . -", t))), full)
    put(case, t, "df", a$Df[2]); put(case, t, "sum_sq", a$`Sum of Sq`[2]); put(case, t, "F", a$F[2]); put(case, t, "p", a$`Pr(>F)`[2])
  }
  put(case, "residual", "df", full$df.residual); put(case, "residual", "sum_sq", deviance(full))
}
nested("heat_2", heat, "clip_similarity"); nested("study_2", study, "clip_i")
put_anova("heat_1", anova(lm(clip_similarity ~ din + dout, heat)))
put_anova("study_block", Anova(lm(clip_i ~ seed + placement, study), type = 2))
put_anova("study_interaction", anova(lm(clip_i ~ seed + din * dout, study)))
fit <- lm(breaks ~ wool * tension, warp)
for (m in c("hc0", "hc1", "hc2", "hc3")) put_anova(paste0("warp_", m), Anova(fit, type = 2, white.adjust = m))

# --- effect sizes ----------------------------------------------------------------------------------------------------
a2 <- Anova(lm(breaks ~ wool * tension, warp), type = 2)
for (f in c("eta_squared", "omega_squared", "epsilon_squared", "cohens_f")) {
  e <- as.data.frame(get(f)(a2, partial = TRUE, ci = 0.95, alternative = "two.sided"))
  for (i in seq_len(nrow(e))) { put(paste0("effect_", f), e$Parameter[i], "value", e[i, 2])
    put(paste0("effect_", f), e$Parameter[i], "low", e$CI_low[i]); put(paste0("effect_", f), e$Parameter[i], "high", e$CI_high[i]) }
}
e <- as.data.frame(eta_squared(aov(clip_similarity ~ din, heat), partial = TRUE, ci = 0.95, alternative = "two.sided"))
put("effect_heat", "din", "value", e[1, 2]); put("effect_heat", "din", "low", e$CI_low); put("effect_heat", "din", "high", e$CI_high)
lambda <- function(F, a, b, p) uniroot(function(x) pf(F, a, b, x) - p, c(0, 5000), tol = 1e-10)$root
Fh <- anova(lm(clip_similarity ~ din, heat))$F[1]
for (p in c(.025, .975)) put("lambda_heat", p, "lambda", lambda(Fh, 9, 10, p))

# --- means and contrasts ----------------------------------------------------------------------------------------------
put_means <- function(case, em, name) { s <- as.data.frame(summary(em, infer = TRUE))
  for (i in seq_len(nrow(s))) for (k in c("emmean", "SE", "df", "lower.CL", "upper.CL"))
    put(case, s[[name]][i], c(emmean = "mean", SE = "se", df = "df", lower.CL = "low", upper.CL = "high")[k], s[i, k]) }
put_pairs <- function(case, em, adjust = "none") { s <- as.data.frame(summary(pairs(em, adjust = adjust), infer = TRUE))
  for (i in seq_len(nrow(s))) for (k in c("estimate", "SE", "df", "t.ratio", "p.value"))
    put(case, gsub("[()]", "", s$contrast[i]), c(estimate = "estimate", SE = "se", df = "df", t.ratio = "t", p.value = "p")[k], s[i, k]) }
emm_options(msg.interaction = FALSE)
em <- emmeans(fit, "tension"); put_means("means_warp", em, "tension"); put_pairs("pairs_warp", em); put_pairs("tukey_means_warp", em, "tukey")
em <- emmeans(lm(len ~ supp * dose, tooth), "supp"); put_means("means_tooth_trend", em, "supp")
em <- emmeans(lm(len ~ supp * poly(dose, 2), tooth), "supp"); put_means("means_tooth_poly", em, "supp")
em <- emmeans(lm(clip_i ~ din + dout, study), "din"); put_pairs("pairs_study", em); put_means("means_study", em, "din")
em <- emmeans(lm(clip_i ~ seed + placement, study), "placement"); put_means("means_study_block", em, "placement")
big <- droplevels(subset(study, !(din %in% c("attn2c", "resi", "reso"))))
em <- emmeans(lm(clip_i ~ din + dout, big), "din"); put_means("means_study_component", em, "din")

# --- after the test ----------------------------------------------------------------------------------------------------
tk <- TukeyHSD(aov(weight ~ group, PlantGrowth))$group
for (r in rownames(tk)) for (k in 1:4) put("tukey_plant", r, c("estimate", "low", "high", "p")[k], tk[r, k])
sp <- InsectSprays[-c(1:5, 20, 41), ]; save_data(sp, "sprays")
tk <- TukeyHSD(aov(count ~ spray, sp))$spray
for (r in rownames(tk)) for (k in 1:4) put("tukey_sprays", r, c("estimate", "low", "high", "p")[k], tk[r, k])
g <- split(sp$count, sp$spray); s2 <- sapply(g, var) / sapply(g, length); n <- sapply(g, length); mu <- sapply(g, mean)
for (i in 1:5) for (j in (i + 1):6) {                               # Games-Howell from its definition and ptukey
  se <- sqrt((s2[i] + s2[j]) / 2); df <- (s2[i] + s2[j])^2 / (s2[i]^2 / (n[i] - 1) + s2[j]^2 / (n[j] - 1))
  r <- paste(names(g)[j], names(g)[i], sep = "-"); put("games_howell", r, "estimate", mu[j] - mu[i]); put("games_howell", r, "df", df)
  put("games_howell", r, "p", ptukey(abs(mu[j] - mu[i]) / se, 6, df, lower.tail = FALSE)) }
abs_eps <- GenzBretz(maxpts = 5e6, abseps = 1e-7)
put_glht <- function(case, model, ...) { h <- glht(model, ...); s <- summary(h, test = adjusted("single-step", maxpts = 5e6, abseps = 1e-7))
  ci <- confint(h, calpha = qmvt_exact(h)); for (i in seq_along(s$test$coefficients)) { r <- names(s$test$coefficients)[i]
    put(case, r, "estimate", s$test$coefficients[i]); put(case, r, "p", s$test$pvalues[i]); put(case, r, "low", ci$confint[i, 2]) } }
qmvt_exact <- function(h) { set.seed(1); c <- adjusted_calpha(maxpts = 5e6, abseps = 1e-7); c(h, .95) }
adjusted_calpha <- function(...) function(h, level) { v <- vcov(h); mvtnorm::qmvt(level, df = h$df, corr = cov2cor(v), tail = "both.tails", ...)$quantile }
set.seed(1); put_glht("dunnett_plant", aov(weight ~ group, PlantGrowth), linfct = mcp(group = "Dunnett"))
set.seed(1); put_glht("dunnett_sprays", aov(count ~ spray, sp), linfct = mcp(spray = "Dunnett"))
ml <- multcompLetters(setNames(TukeyHSD(aov(count ~ spray, sp))$spray[, 4], rownames(tk)))$Letters
write.csv(data.frame(spray = names(ml), letters = ml), file.path(dir, "letters.csv"), row.names = FALSE, quote = FALSE)
p <- c(.001, .011, .02, .04, .04, .2, .7)
for (m in c("holm", "BH", "BY", "bonferroni")) for (i in seq_along(p)) put("adjust", i, m, p.adjust(p, m)[i])

# --- robust, assumptions ------------------------------------------------------------------------------------------------
w <- oneway.test(count ~ spray, sp); put("welch", "spray", "F", w$statistic); put("welch", "spray", "df", w$parameter[1])
put("welch", "spray", "df_residual", w$parameter[2]); put("welch", "spray", "p", w$p.value)
k <- kruskal.test(count ~ spray, sp); put("kruskal", "spray", "H", k$statistic); put("kruskal", "spray", "p", k$p.value)
for (c in c("mean", "median")) { l <- leveneTest(count ~ spray, sp, center = get(c)); put("levene", c, "F", l$`F value`[1]); put("levene", c, "p", l$`Pr(>F)`[1]) }
s <- shapiro.test(residuals(fit)); put("shapiro", "warp", "W", s$statistic); put("shapiro", "warp", "p", s$p.value)
for (i in c(1, 5, 20, 48)) { put("influence", i, "hat", hatvalues(fit)[i]); put("influence", i, "rstudent", rstudent(fit)[i]); put("influence", i, "cook", cooks.distance(fit)[i]) }
art <- function(d, y, a, b, term) {                                 # Wobbrock et al. 2011, from its definition
  m <- function(...) ave(d[[y]], ...); g <- mean(d[[y]]); A <- m(d[[a]]); B <- m(d[[b]]); AB <- m(d[[a]], d[[b]])
  effect <- switch(term, A = A - g, B = B - g, AB = AB - A - B + g)
  d$r <- rank(round(d[[y]] - AB + effect, 9)); f <- lm(reformulate(paste(a, b, sep = " * "), "r"), d)
  Anova(f, type = 2)[switch(term, A = a, B = b, AB = paste(a, b, sep = ":")), ] }
for (t in c("A", "B", "AB")) { x <- art(warpbreaks, "breaks", "wool", "tension", t); put("art", t, "F", x$`F value`); put("art", t, "p", x$`Pr(>F)`) }
save_data(warpbreaks, "warpbreaks")

# --- mixed models ---------------------------------------------------------------------------------------------------------
put_mixed <- function(case, f, d) {
  m <- lmer(f, d, control = lmerControl(optCtrl = list(ftol_abs = 1e-14, xtol_abs = 1e-12, maxeval = 10000))); v <- as.data.frame(VarCorr(m))
  put(case, "reml", "value", REMLcrit(m)); for (i in seq_len(nrow(v))) put(case, v$grp[i], "variance", v$vcov[i])
  for (ddf in c("Satterthwaite", "Kenward-Roger")) { a <- anova(m, type = 2, ddf = ddf)
    for (r in rownames(a)) { put(case, r, paste0("df_residual_", ddf), a[r, "DenDF"]); put(case, r, paste0("F_", ddf), a[r, "F value"])
      put(case, r, paste0("df_", ddf), a[r, "NumDF"]); put(case, r, paste0("p_", ddf), a[r, "Pr(>F)"]) } } }
put_mixed("mixed_sleep", Reaction ~ Days + (1 | Subject), sleepstudy)
put_mixed("mixed_oats", yield ~ variety + nitro + (1 | block) + (1 | block:variety), oats)
put_mixed("mixed_oats2", yield ~ variety * nitro + (1 | block) + (1 | block:variety), oats2)
put_mixed("mixed_study", clip_i ~ placement + (1 | seed), study)
put_mixed("mixed_big", clip_i ~ din + dout + (1 | seed), big)
put_mixed("mixed_penicillin", diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin)
s <- summary(aov(yield ~ variety * nitro + Error(block / variety), oats))
for (st in names(s)) put_anova(paste0("strata ", sub("Error: ", "", st)), s[[st]][[1]])
s <- summary(aov(yield ~ N * P * K + Error(block), npk))
for (st in names(s)) put_anova(paste0("strata_npk ", sub("Error: ", "", st)), s[[st]][[1]])
mr <- lm(as.matrix(reshape(sleepstudy, idvar = "Subject", timevar = "Days", direction = "wide")[, -1]) ~ 1)
mv <- summary(Anova(mr, idata = data.frame(d = factor(0:9)), idesign = ~d, type = 3), multivariate = FALSE)
put("repeated", "d", "F", mv$univariate.tests["d", "F value"]); put("repeated", "d", "gg", mv$pval.adjustments["d", "GG eps"])
put("repeated", "d", "hf", mv$pval.adjustments["d", "HF eps"]); put("repeated", "d", "p_gg", mv$pval.adjustments["d", "Pr(>F[GG])"])

# --- power --------------------------------------------------------------------------------------------------------------
put("power", "k=4 n=6 f=.4", "power", pwr.anova.test(k = 4, n = 6, f = .4, sig.level = .05)$power)
put("power", "k=20 n=3 f=.6", "power", pwr.anova.test(k = 20, n = 3, f = .6, sig.level = .05)$power)
put("power", "k=5 f=.25 power=.8", "n", pwr.anova.test(k = 5, f = .25, sig.level = .05, power = .8)$n)
put("power", "k=20 n=3 power=.8", "f", pwr.anova.test(k = 20, n = 3, power = .8, sig.level = .05)$f)

d <- do.call(rbind, out); d$value <- format(d$value, digits = 17, trim = TRUE)
write.csv(d, file.path(dir, "reference.csv"), row.names = FALSE, quote = TRUE)
pk <- c("car", "lme4", "lmerTest", "pbkrtest", "emmeans", "multcomp", "effectsize", "sandwich", "multcompView", "pwr")
writeLines(c(R.version.string, sapply(pk, function(x) paste(x, packageVersion(x)))), file.path(dir, "versions.txt"))
