"""The formats that sources come in, one file each, and the rules for rows and columns that they share."""
