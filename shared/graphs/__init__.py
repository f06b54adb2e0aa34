"""What workers announce of their graphs: the keys of their inputs, and their drawings and schemas."""
