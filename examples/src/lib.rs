//! The examples are in the folder above, one file each.
