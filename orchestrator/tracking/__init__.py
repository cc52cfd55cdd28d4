"""Sync records to MLflow and Optuna's dashboard, and send notifications."""
