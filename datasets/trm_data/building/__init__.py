"""Build datasets from sources; read and write the official layout."""
