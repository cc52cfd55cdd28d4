"""Views of the records in other tools: they can be stopped, rebuilt and pointed elsewhere at any time."""
