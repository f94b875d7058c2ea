"""What the runs say in plain sentences, each a claim with its estimate, interval, p value and method."""
