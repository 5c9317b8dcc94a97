"""What is measured: Serinus, and how others serve the same model and features, each as its documentation shows it."""
