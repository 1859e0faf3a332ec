"""Released versions, the champion and what it has seen. Entered by archive, champion, monitor and predict."""
