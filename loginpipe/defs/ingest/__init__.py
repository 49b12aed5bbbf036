"""Load the queue into the table: the stages in the order of the data, their step, checks, job and sensor."""
