"""The parts of `tools/dev`: standard library only, since it runs before anything is installed."""
