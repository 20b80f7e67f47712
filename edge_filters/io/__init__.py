"""The edges of the edge: everything here touches a broker, a disk, a model runtime or a clock."""
