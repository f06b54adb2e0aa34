"""For development: a private Redis, and the page of settings. No product code imports it, but for one command."""
