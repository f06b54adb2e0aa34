"""The APIs that the offline model serves, a module each, and what they refuse; begin with `routes`."""
