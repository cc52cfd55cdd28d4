"""Ask AWS for quotas, list and end its machines, and explain its refusals. boto3 is imported on use."""
