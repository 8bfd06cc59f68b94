"""The tools that an agent sees, a module a step of the way of the data."""
