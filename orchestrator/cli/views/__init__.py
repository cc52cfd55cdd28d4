"""Tables and live displays of the command line."""
