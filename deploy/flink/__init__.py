"""A Flink cluster on this machine: what it is made of, and the questions that its REST address answers."""
