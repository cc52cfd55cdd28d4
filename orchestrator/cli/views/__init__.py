"""Show tables and live displays on the command line."""
