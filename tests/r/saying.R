# Reference values of base R for tests/analysis/test_analysis_saying.py: Rscript tests/r/saying.R > tests/r/saying.csv
# Friedman's test, two one-sided t tests of a pair with the pooled residual, and a split plot of runs that share trainings.
study <- read.csv("tests/r/data_study.csv")
whole <- table(study$seed, study$placement)
whole <- names(which(apply(whole > 0, 2, all)))
ranks <- friedman.test(clip_i ~ placement | seed, data = subset(study, placement %in% whole))
rows <- data.frame(case = "friedman", row = "placement", column = c("Q", "df", "p"),
                   value = c(ranks$statistic, ranks$parameter, ranks$p.value))

plant <- read.csv("tests/r/data_PlantGrowth.csv")
fit <- lm(weight ~ group, data = plant)
s <- summary(fit)$sigma
means <- tapply(plant$weight, plant$group, mean)
n <- table(plant$group)
for (pair in list(c("ctrl", "trt1"), c("ctrl", "trt2"), c("trt1", "trt2"))) {
  d <- means[pair[1]] - means[pair[2]]
  se <- s * sqrt(1 / n[pair[1]] + 1 / n[pair[2]])
  p <- max(pt((d + 1) / se, df.residual(fit), lower.tail = FALSE), pt((d - 1) / se, df.residual(fit)))
  rows <- rbind(rows, data.frame(case = "tost", row = paste(pair, collapse = " - "), column = "p_equal", value = p))
}

oats <- read.csv("tests/r/data_oats.csv")
table <- summary(aov(yield ~ variety * nitro + Error(block / variety), data = oats))
for (stratum in names(table)) {
  part <- table[[stratum]][[1]]
  for (i in seq_len(nrow(part))) {
    rows <- rbind(rows, data.frame(case = paste("split", sub("Error: ", "", stratum)), row = trimws(rownames(part)[i]),
                                   column = c("sum_sq", "df", "F", "p"),
                                   value = unlist(part[i, c("Sum Sq", "Df", "F value", "Pr(>F)")][seq_len(4)])))
  }
}
write.csv(rows, row.names = FALSE)
