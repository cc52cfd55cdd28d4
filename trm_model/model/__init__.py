"""Define the network, the recursion, the carry and the halting rule."""
