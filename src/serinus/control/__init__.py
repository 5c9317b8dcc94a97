"""The loop: start and stop serving, gather what is due, run it, put versions in front."""
