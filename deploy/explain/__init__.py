"""What happened, for people: the path of one event, and a report of a whole recording."""
