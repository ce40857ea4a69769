"""`transfusion doctor`: is this machine or cluster ready, and are the records true; mends what it can."""
