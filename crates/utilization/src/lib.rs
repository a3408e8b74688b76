//! Metrics of many processes in shared memory.
//!
//! Each worker has a segment of a file that it maps, and a metric is a number in there: to count something is one atomic
//! instruction, without a lock and without a system call. Whoever mapped the file sees the numbers of all workers at any
//! time, also those of one that hangs.
