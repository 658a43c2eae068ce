"""Ground floor: closed schemas, records on disk, seeds."""
