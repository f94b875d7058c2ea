"""A form and a scorer of one's own, and a study that uses both. sdpet finds them by their Python paths."""
