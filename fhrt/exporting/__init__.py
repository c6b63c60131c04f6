"""From a checkpoint to an artifact that was checked against it."""
