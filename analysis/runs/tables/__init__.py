"""Files of text as tables with a row a run: their lines, and columns or rows that stand for something else."""
