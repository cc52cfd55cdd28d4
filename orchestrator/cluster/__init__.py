"""Ray clusters: joining one, describing one in the cloud."""
