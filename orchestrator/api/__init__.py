"""Offer what `import orchestrator` exports: plan, run and train, with tracking, notifications and progress."""
