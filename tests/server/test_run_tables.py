"""Lines of a run's events, as the commands print them."""

from ynet_server.commands.run_tables import describe_event


def test_scores_of_a_plan_with_regions_have_the_dice_of_each() -> None:
    of_regions = {"dice": 0.8, "masks": 15, "dice_per_region": {"disc": 0.9, "cup": None}}
    event = {"kind": "evaluated", "time": 1.0, "round": 2, "sites": {"A": of_regions, "B": {"dice": 0.7, "masks": 10}}}
    told = describe_event(event)
    assert "Dice 0.800 of <= 15 (disc 0.900, cup none)" in told
    assert told.endswith("Dice 0.700 of <= 10")
