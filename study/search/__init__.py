"""Search inside a cell: which settings it tries, which of them go on, and with which it is compared."""
