"""Load the queue into the table: one module per stage, with the checks, the job and the sensor."""
