"""The report that is opened in a browser: figures, tables, and a browser of single questions."""
