"""The client of verifier services: endpoints, retries, answers."""
