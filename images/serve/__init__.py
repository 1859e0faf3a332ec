"""The service: answers of the champion about pictures in requests, and a search over its predictions."""
