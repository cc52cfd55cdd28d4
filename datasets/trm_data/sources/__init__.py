"""Read puzzles from their sources: generators, packages, files, folders, addresses, official datasets."""
