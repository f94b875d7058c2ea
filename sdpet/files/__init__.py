"""Files: written atomically, locked, hashed by content, and images read from them."""
