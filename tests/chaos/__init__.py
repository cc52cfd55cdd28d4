"""Break everything that a sweep needs, at moments drawn from a seed, and audit afterwards that nothing came of it.

make chaos SEED=1 MINUTES=15
"""
