"""Prints how many nodes Ray holds alive. For `ray submit`."""

import ray

ray.init(logging_level="ERROR")
print("nodes alive:", sum(node["Alive"] for node in ray.nodes()))
