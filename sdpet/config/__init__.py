"""From a composed config to a checked one, and to the run's id. Free of torch, and quick."""
