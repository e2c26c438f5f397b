"""What plugs into Feast by dotted path. Imports Feast, which takes ten seconds."""
