"""Networks that other models are built from, each as published."""
