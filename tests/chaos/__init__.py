"""Kills every part of a running system, again and again, and looks whether the record is still true."""
