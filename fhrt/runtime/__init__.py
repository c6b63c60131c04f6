"""Runtimes behind one contract: `session.py` says what a session is and opens one."""
