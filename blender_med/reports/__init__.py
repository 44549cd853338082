"""Writers of the results: CSV tables and the short tables of the console."""
