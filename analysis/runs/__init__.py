"""From any table, folder or server to a frame with one row a run: reading, types of columns, and what each column is."""
