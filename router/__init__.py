"""Who should answer this request? The route call, tickets, the hold queue, and the admin API."""
