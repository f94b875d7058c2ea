"""Files: atomic writing, locks, hashes of content, and reading images."""
