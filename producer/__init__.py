"""Submit tasks, look them up and watch the fleet: clients, command line, HTTP gateway, dashboard and doctor."""
