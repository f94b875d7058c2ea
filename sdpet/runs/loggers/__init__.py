"""Loggers that receive the loss and the images of a run: CSV, TensorBoard, W&B or none."""
