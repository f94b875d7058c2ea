"""The sections of a report's page, one module each."""
