"""The commands: train.py, evaluate.py and `sdpet`. What is printed is printed here."""
