"""One self-contained page about a run, for people: `report/index.html`. Needs neither Ray nor torch."""
