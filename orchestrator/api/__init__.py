"""What `import orchestrator` offers: plan, run and train, with tracking, notifications and progress."""
