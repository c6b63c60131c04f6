"""Training: one trainer (`train.py`), one file a system, one TOML a run."""
