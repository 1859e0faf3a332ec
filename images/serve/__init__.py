"""The service: what the champion says about a picture that somebody sends, and the search over what it has said."""
