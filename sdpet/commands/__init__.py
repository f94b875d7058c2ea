"""The commands train.py, evaluate.py and `sdpet`. Only this package prints."""
