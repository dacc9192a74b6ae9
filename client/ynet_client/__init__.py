"""The hospital's side: joins, trains, indexes, answers."""
