"""What a worker announces of itself, for other workers and the doctor."""
