"""Where the loss and the images of a run go besides its record: nowhere, CSV, TensorBoard or W&B."""
