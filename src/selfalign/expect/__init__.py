"""What a user expects of every answer, as text (`json`, `refund=contains:30 days`) and as functions that judge answers."""
