"""Evaluation of policies: in closed loop, on recorded episodes, on questions about images."""
