"""The dialects, from what the user meant (`hamkaas`) to what the host does (`program`)."""
