"""For development: the offline model. No product code imports it, but for one command."""
