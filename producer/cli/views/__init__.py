"""What commands write: tables on a terminal, plain text in a pipe, JSON. Begin with output.py."""
