"""Measurements that are not tests: they compare numbers, need other libraries, and take minutes."""
