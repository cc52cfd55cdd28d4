"""Where puzzles come from: generators, packages, files, folders, addresses, official datasets."""
