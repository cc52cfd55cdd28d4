"""Serve the results pages, MLflow and Optuna's dashboard."""
